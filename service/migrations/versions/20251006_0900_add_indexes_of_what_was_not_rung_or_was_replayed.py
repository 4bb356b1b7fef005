"""Add indexes of what was not rung yet, and of what was replayed: others make many rows be read for few."""

import sqlalchemy as sa
from alembic import op

revision = "20251006_0900"
down_revision = "20250929_0900"

INDEXES = (
    # The sweep: due_at <= now() ORDER BY due_at LIMIT 50, of those that were not rung, however many are not due.
    ("ix_incoming_emails_received_due", "incoming_emails", "due_at", "processing_status = 'received'"),
    # The list of what was replayed: ORDER BY id DESC LIMIT 51, however many still wait.
    ("ix_quarantined_webhooks_replayed", "quarantined_webhooks", "id", "replayed_at IS NOT NULL"),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, table, column, where in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.create_index(
                name, table, [column], postgresql_where=sa.text(where), postgresql_concurrently=True
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name, table, *_ in INDEXES:
            op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
