"""Add the indexes that find open outcomes of bulk retries, and finished e-mails that were not synced."""

from alembic import op

revision = "20261129_0955"
down_revision = "20261129_0950"

INDEXES = {
    # The next actions of a bulk retry whose outcome is open: bulk_retry_id = 7 AND id > 4711 ORDER BY id LIMIT 2000.
    "ix_operator_actions_open": (
        "operator_actions (bulk_retry_id, id)"
        " WHERE bulk_retry_id IS NOT NULL AND email_id IS NOT NULL AND outcome IS NULL"
    ),
    # The bulk retry whose e-mails are looked at next: look_at <= now() ORDER BY look_at LIMIT 1.
    "ix_bulk_retries_unsettled": "bulk_retries (look_at) WHERE settled_at IS NULL",
    # The count and the list of what was never synced or failed: ORDER BY id LIMIT 10000.
    "ix_incoming_emails_unsynced": (
        "incoming_emails (id) WHERE sync_status IN ('not_applicable', 'failed')"
        " AND processing_status IN ('completed', 'failed')"
    ),
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
