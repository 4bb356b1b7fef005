"""Add when a quarantined webhook was replayed, and the e-mail that it became. All of it may be repeated."""

import sqlalchemy as sa
from alembic import op

revision = "20250929_0900"
down_revision = "20250922_0910"


COLUMNS = (
    sa.Column("replayed_at", sa.DateTime(timezone=True)),
    sa.Column("email_id", sa.BigInteger),
)


def upgrade() -> None:
    # The columns are committed before the index is built: who runs it again finds them there.
    for column in COLUMNS:
        op.add_column("quarantined_webhooks", column.copy(), if_not_exists=True)
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_quarantined_webhooks_waiting")
        op.create_index(
            "ix_quarantined_webhooks_waiting",
            "quarantined_webhooks",
            ["id"],
            postgresql_where=sa.text("replayed_at IS NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(
            "ix_quarantined_webhooks_waiting",
            "quarantined_webhooks",
            postgresql_concurrently=True,
            if_exists=True,
        )
    for column in reversed(COLUMNS):
        op.drop_column("quarantined_webhooks", column.name)
