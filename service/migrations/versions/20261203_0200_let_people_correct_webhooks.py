"""Add corrected bodies of webhooks in quarantine, bulk replays, and the key that such a webhook shares with an e-mail."""

import sqlalchemy as sa
from alembic import op

revision = "20261203_0200"
down_revision = "20261203_0100"

WHAT, ACTION = "ck_bulk_retries_what", "ck_bulk_retries_action"


def upgrade() -> None:
    op.create_table(
        "quarantine_corrections",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("quarantine_id", sa.BigInteger, nullable=False),
        sa.Column("corrected_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("corrected_by", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("error_code", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine_corrections"),
        sa.ForeignKeyConstraint(
            ["quarantine_id"],
            ["quarantined_webhooks.id"],
            name="fk_quarantine_corrections_quarantine_id",
            ondelete="CASCADE",
        ),
        if_not_exists=True,
    )
    op.execute("ALTER TABLE quarantined_webhooks ADD COLUMN IF NOT EXISTS reused_key text")
    _allow(what="'job', 'sync', 'webhook'", action="'retry', 'dismiss', 'undismiss', 'replay'")


def downgrade() -> None:
    # The previous version would look for e-mails, and could not read the filter.
    op.execute("DELETE FROM bulk_retries WHERE what = 'webhook'")
    _allow(what="'job', 'sync'", action="'retry', 'dismiss', 'undismiss'")
    op.execute("ALTER TABLE quarantined_webhooks DROP COLUMN IF EXISTS reused_key")
    op.drop_table("quarantine_corrections", if_exists=True)


def _allow(*, what: str, action: str) -> None:
    # Bulk retries are few, and so Postgres checks all of them at once.
    op.execute(
        f"ALTER TABLE bulk_retries DROP CONSTRAINT IF EXISTS {WHAT}, DROP CONSTRAINT IF EXISTS {ACTION},"
        f" ADD CONSTRAINT {WHAT} CHECK (what IN ({what})), ADD CONSTRAINT {ACTION} CHECK (action IN ({action}))"
    )
