"""Let what a run found be closed when a later one looked there again."""

from alembic import op

revision = "20251117_0910"
down_revision = "20251117_0900"

INDEXES = {
    # What is open: by the key that is found again, and by the e-mails that are looked at.
    "ix_reconciliation_findings_open": "(key) WHERE repair IS NULL AND closed_at IS NULL",
    "ix_reconciliation_findings_open_email": "(email_id) WHERE repair IS NULL AND closed_at IS NULL",
}


def upgrade() -> None:
    # What was found before counts as closed, by a default that rewrites no row: whatever is so still is found again.
    op.execute(
        "ALTER TABLE reconciliation_findings ADD COLUMN IF NOT EXISTS closed_at timestamptz DEFAULT now()"
    )
    op.execute("ALTER TABLE reconciliation_findings ALTER COLUMN closed_at DROP DEFAULT")
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON reconciliation_findings {definition}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    op.execute("ALTER TABLE reconciliation_findings DROP COLUMN IF EXISTS closed_at")
