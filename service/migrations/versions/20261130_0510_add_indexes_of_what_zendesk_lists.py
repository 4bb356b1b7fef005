"""Add the indexes of what Zendesk lists, and of the e-mails that no webhook announced."""

from alembic import op

revision = "20261130_0510"
down_revision = "20261130_0500"

INDEXES = {
    "ix_backfills_open": "backfills (account, id) WHERE finished_at IS NULL",
    "uq_backfills_current": "backfills (account) WHERE kind = 'current' AND finished_at IS NULL",
    "ix_source_emails_created": "source_emails (account, created_at)",
    "uq_suspended_emails_account": "suspended_emails (account, suspended_id)",
    "ix_suspended_emails_contents": "suspended_emails USING gin (contents)",
    "ix_suspended_emails_held": "suspended_emails (account, created_at) WHERE gone_at IS NULL",
    "ix_incoming_emails_unannounced": "incoming_emails (id) WHERE origin <> 'webhook'",
    "ix_incoming_emails_back_filled": (
        "incoming_emails (id) WHERE origin = 'backfill' AND processing_status IN ('received', 'queued')"
    ),
    "ix_incoming_emails_deleted": "incoming_emails (zendesk_ticket_id) WHERE zendesk_state = 'deleted'",
    "ix_incoming_emails_zendesk_state": "incoming_emails (id) WHERE zendesk_state IS NOT NULL",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, rows in INDEXES.items():
            kind = "UNIQUE INDEX" if name.startswith("uq_") else "INDEX"
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {kind} CONCURRENTLY {name} ON {rows}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
