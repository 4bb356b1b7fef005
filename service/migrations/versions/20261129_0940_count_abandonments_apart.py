"""Count apart from the retries how often in a row the worker of an e-mail died."""

from alembic import op

revision = "20261129_0940"
down_revision = "20261129_0930"

NAME = "ix_incoming_emails_suspect_due"


def upgrade() -> None:
    # All rows have the default at once: nothing is rewritten. The code before leaves the column alone.
    op.execute(
        "ALTER TABLE incoming_emails ADD COLUMN IF NOT EXISTS abandoned_count integer NOT NULL DEFAULT 0"
    )
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY {NAME} ON incoming_emails (due_at)"
            " WHERE processing_status = 'queued' AND abandoned_count > 0"
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
    op.execute("ALTER TABLE incoming_emails DROP COLUMN IF EXISTS abandoned_count")
