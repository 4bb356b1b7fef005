"""Add who dismissed what, and why: e-mails, webhooks in quarantine, findings, one or all that match."""

from alembic import op

revision = "20261201_0100"
down_revision = "20261130_0520"

DISMISSAL = {"dismissed_at": "timestamptz", "dismissed_by": "text", "dismiss_reason": "text"}
COLUMNS = {
    "incoming_emails": {**DISMISSAL, "dismissed_attempt": "integer", "dismissed_sync_attempt": "integer"},
    "quarantined_webhooks": DISMISSAL,
    "reconciliation_findings": DISMISSAL,
    "operator_actions": {"reason": "text", "finding_id": "bigint"},
    "bulk_retries": {"action": "text NOT NULL DEFAULT 'retry'", "reason": "text"},
}
ACTION = "ck_bulk_retries_action"


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in columns.items())
        op.execute(f"ALTER TABLE {table} {added}")
    # Bulk retries are few, and so Postgres checks all of them at once.
    op.execute(
        f"ALTER TABLE bulk_retries DROP CONSTRAINT IF EXISTS {ACTION},"
        f" ADD CONSTRAINT {ACTION} CHECK (action IN ('retry', 'dismiss', 'undismiss'))"
    )


def downgrade() -> None:
    # The previous version would retry the e-mails of a dismissal, and could not read the filter of either.
    op.execute("DELETE FROM bulk_retries WHERE action <> 'retry'")
    op.execute(
        "UPDATE bulk_retries SET filter = (filter::jsonb - 'dismissed')::json,"
        " status = CASE status WHEN 'running' THEN 'cancelled' ELSE status END"
        " WHERE filter ->> 'dismissed' IS NOT NULL"
    )
    for table, columns in COLUMNS.items():
        op.execute(f"ALTER TABLE {table} {', '.join(f'DROP COLUMN {name}' for name in columns)}")
