"""Add the index by which an e-mail finds webhooks in quarantine that have its key, but another body."""

from alembic import op

revision = "20261203_0210"
down_revision = "20261203_0200"

INDEX = "ix_quarantined_webhooks_reused_key"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY {INDEX} ON quarantined_webhooks (reused_key) WHERE reused_key IS NOT NULL"
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
