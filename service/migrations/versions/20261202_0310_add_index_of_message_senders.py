"""Add the indexes of erasures, and that of the senders that messages name: webhooks of some e-mails named nobody."""

from alembic import op

revision = "20261202_0310"
down_revision = "20261202_0300"

INDEXES = {
    "ix_tombstones_receipt": "tombstones (receipt_id)",
    "ix_erasures_running": "erasures (next_at) WHERE status = 'running'",
    "ix_messages_sender": "messages (left(lower(from_address), 400), email_id)",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, rows in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {rows}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
