"""Note when the original of an e-mail is asked for again, and why there is none."""

from alembic import op

revision = "20261203_1000"
down_revision = "20261203_0930"

INDEX = "ix_messages_original_due"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE messages ADD COLUMN IF NOT EXISTS original_error_code text,"
        " ADD COLUMN IF NOT EXISTS original_due_at timestamptz,"
        " ADD COLUMN IF NOT EXISTS original_tries integer NOT NULL DEFAULT 0"
    )
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY {INDEX} ON messages (original_due_at)"
            " WHERE original IS NULL AND original_due_at IS NOT NULL"
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
    op.execute(
        "ALTER TABLE messages DROP COLUMN IF EXISTS original_tries, DROP COLUMN IF EXISTS original_due_at,"
        " DROP COLUMN IF EXISTS original_error_code"
    )
