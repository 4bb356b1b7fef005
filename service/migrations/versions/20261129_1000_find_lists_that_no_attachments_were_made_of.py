"""Add the index of e-mails whose `attachment_urls` another system wrote, and that have no attachments yet."""

from alembic import op

revision = "20261129_1000"
down_revision = "20261129_0955"

# The next of them: ORDER BY id LIMIT 200. It is empty where there was no other system.
UNREAD = "raw_body IS NULL AND reading_hash IS NULL AND attachment_urls IS NOT NULL"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_incoming_emails_unread")
        op.execute(
            f"CREATE INDEX CONCURRENTLY ix_incoming_emails_unread ON incoming_emails (id) WHERE {UNREAD}"
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_incoming_emails_unread")
