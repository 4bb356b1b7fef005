"""Let a retry of many be one of syncs, alerts tell of syncs, and each sync know since when it waits."""

from alembic import op

revision = "20251103_0920"
down_revision = "20251103_0910"

CAUSES = ("failures", "quarantine", "waiting", "silence", "signatures", "workers", "no_worker")


def upgrade() -> None:
    # Both have their defaults at once, in all rows: nothing is rewritten.
    op.execute(
        "ALTER TABLE incoming_emails ADD COLUMN IF NOT EXISTS sync_begun_at timestamptz NOT NULL DEFAULT now()"
    )
    # Whoever runs the code before takes no such retry for one of jobs: its filter has a field that is unknown there.
    op.execute("ALTER TABLE bulk_retries ADD COLUMN IF NOT EXISTS what text NOT NULL DEFAULT 'job'")
    op.execute("ALTER TABLE bulk_retries DROP CONSTRAINT IF EXISTS ck_bulk_retries_what")
    op.execute("ALTER TABLE bulk_retries ADD CONSTRAINT ck_bulk_retries_what CHECK (what IN ('job', 'sync'))")
    _let_causes_be(*CAUSES, "sync")


def downgrade() -> None:
    op.execute("DELETE FROM alert_deliveries WHERE alert_id IN (SELECT id FROM alerts WHERE cause = 'sync')")
    op.execute("DELETE FROM alerts WHERE cause = 'sync'")
    _let_causes_be(*CAUSES)
    # The code before would run their jobs again.
    op.execute("UPDATE bulk_retries SET status = 'cancelled' WHERE what = 'sync' AND status = 'running'")
    op.execute("ALTER TABLE bulk_retries DROP COLUMN what")
    op.execute("ALTER TABLE incoming_emails DROP COLUMN sync_begun_at")


def _let_causes_be(*causes: str) -> None:
    words = ", ".join(f"'{cause}'" for cause in causes)
    op.execute("ALTER TABLE alerts DROP CONSTRAINT IF EXISTS ck_alerts_cause")
    op.execute(f"ALTER TABLE alerts ADD CONSTRAINT ck_alerts_cause CHECK (cause IN ({words}))")
