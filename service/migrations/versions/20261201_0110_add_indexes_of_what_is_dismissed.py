"""Add the indexes of what needs attention, and of what was dismissed."""

from alembic import op

revision = "20261201_0110"
down_revision = "20261201_0100"

DISMISSED = (
    "dismissed_attempt = attempt_number AND processing_status IN ('completed', 'failed')"
    " AND (processing_status = 'failed' OR sync_status = 'failed' OR error_code = 'not_captured')"
    " AND (sync_status <> 'failed' OR dismissed_sync_attempt = sync_attempt_number)"
)
OPEN = f"({DISMISSED}) IS NOT TRUE"
INDEXES = {
    "ix_incoming_emails_open_failures": (
        "incoming_emails (coalesce(error_code, ''), coalesce(error_host, ''), received_at, id)"
        f" INCLUDE (error_code, error_host) WHERE processing_status = 'failed' AND {OPEN}"
    ),
    "ix_incoming_emails_open_not_synced": f"incoming_emails (id) WHERE sync_status = 'failed' AND {OPEN}",
    "ix_incoming_emails_open_not_captured": (
        f"incoming_emails (id) WHERE error_code = 'not_captured' AND processing_status = 'completed' AND {OPEN}"
    ),
    "ix_incoming_emails_dismissed": f"incoming_emails (id) WHERE {DISMISSED}",
    "ix_quarantined_webhooks_open": (
        "quarantined_webhooks (id) WHERE replayed_at IS NULL AND dismissed_at IS NULL"
    ),
    "ix_quarantined_webhooks_dismissed": (
        "quarantined_webhooks (id) WHERE replayed_at IS NULL AND dismissed_at IS NOT NULL"
    ),
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, rows in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {rows}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
