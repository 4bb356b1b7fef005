"""Add the indexes of the sync, and let Postgres see that each row has one of its words."""

import sqlalchemy as sa
from alembic import op

revision = "20251103_0910"
down_revision = "20251103_0900"

INDEXES = (
    # The sweep: sync_due_at <= now() ORDER BY sync_due_at LIMIT 16, of what is finished and not carried over yet.
    (
        "ix_incoming_emails_sync_due",
        "sync_due_at",
        "sync_status = 'pending' AND processing_status IN ('completed', 'failed')",
    ),
    # The list of what could not be carried over, newest first.
    ("ix_incoming_emails_not_synced", "id", "sync_status = 'failed'"),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Beside those who write: it takes no lock that they need.
        op.execute("ALTER TABLE incoming_emails VALIDATE CONSTRAINT ck_incoming_emails_sync_status")
        for name, column, where in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.create_index(
                name,
                "incoming_emails",
                [column],
                postgresql_where=sa.text(where),
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name, *_ in INDEXES:
            op.drop_index(name, "incoming_emails", postgresql_concurrently=True, if_exists=True)
