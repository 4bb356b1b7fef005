"""Find suspended e-mails by e-mail, ticket and sender."""

from alembic import op

revision = "20261203_0930"
down_revision = "20261203_0920"

INDEXES = {
    "ix_suspended_emails_email": "suspended_emails (email_id) WHERE email_id IS NOT NULL",
    "ix_suspended_emails_ticket": "suspended_emails (ticket_id) WHERE ticket_id IS NOT NULL",
    # An index cannot hold longer values.
    "ix_suspended_emails_sender": "suspended_emails (left(lower(from_address), 400)) WHERE from_address IS NOT NULL",
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
