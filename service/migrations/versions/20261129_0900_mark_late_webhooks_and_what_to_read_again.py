"""Mark webhooks that came late, keep ignored ones, and let an e-mail's body be read again."""

import sqlalchemy as sa
from alembic import op

revision = "20261129_0900"
down_revision = "20251117_0910"

# In one statement a table: until the transaction ends, everybody waits for the answers in between.
COLUMNS = {
    "incoming_emails": {
        "late": "boolean NOT NULL DEFAULT false",
        "signature_hash": "bytea",
        "reading_hash": "bytea",
        "reread": "boolean NOT NULL DEFAULT false",
    },
    "quarantined_webhooks": {"late": "boolean NOT NULL DEFAULT false", "signature_hash": "bytea"},
}


def upgrade() -> None:
    _create_ignored_webhooks()
    for table, columns in COLUMNS.items():
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in columns.items())
        op.execute(f"ALTER TABLE {table} {added}")


def downgrade() -> None:
    for table, columns in COLUMNS.items():
        dropped = ", ".join(f"DROP COLUMN IF EXISTS {name}" for name in columns)
        op.execute(f"ALTER TABLE {table} {dropped}")
    op.drop_table("ignored_webhooks", if_exists=True)


def _create_ignored_webhooks() -> None:
    op.create_table(
        "ignored_webhooks",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("signature_hash", sa.LargeBinary),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text),
        sa.Column("invocation_id", sa.Text),
        sa.Column("raw_body", sa.LargeBinary, nullable=False),
        sa.Column("raw_headers", sa.JSON, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("replayed_at", sa.DateTime(timezone=True)),
        sa.Column("email_id", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_ignored_webhooks"),
        sa.UniqueConstraint("idempotency_key", name="uq_ignored_webhooks_idempotency_key"),
        if_not_exists=True,
    )
