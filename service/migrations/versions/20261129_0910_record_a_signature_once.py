"""Let no signature be recorded twice."""

import sqlalchemy as sa
from alembic import op

revision = "20261129_0910"
down_revision = "20261129_0900"

# Rows from before have no hash, and none of them is in the way of another.
INDEXES = {
    "uq_incoming_emails_signature_hash": "incoming_emails",
    "uq_quarantined_webhooks_signature_hash": "quarantined_webhooks",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, table in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.create_index(
                name,
                table,
                ["signature_hash"],
                unique=True,
                postgresql_where=sa.text("signature_hash IS NOT NULL"),
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name, table in INDEXES.items():
            op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
