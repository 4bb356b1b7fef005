"""Add the job's state machine: when it started and ended, its retries, what it has to fetch."""

import sqlalchemy as sa

from alembic import op

revision = "20250915_0900"
down_revision = "20250901_0900"


def upgrade() -> None:
    op.add_column("incoming_emails", sa.Column("started_at", sa.DateTime(timezone=True)))
    op.add_column("incoming_emails", sa.Column("completed_at", sa.DateTime(timezone=True)))
    op.add_column("incoming_emails", sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"))
    op.add_column("incoming_emails", sa.Column("attachment_urls", sa.JSON))
    with op.get_context().autocommit_block():
        # An index that an interrupted build left behind is invalid, and in the way.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_incoming_emails_status_received")
        op.create_index(
            "ix_incoming_emails_status_received",
            "incoming_emails",
            ["processing_status", "received_at"],
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(
            "ix_incoming_emails_status_received",
            "incoming_emails",
            postgresql_concurrently=True,
            if_exists=True,
        )
    op.drop_column("incoming_emails", "attachment_urls")
    op.drop_column("incoming_emails", "retry_count")
    op.drop_column("incoming_emails", "completed_at")
    op.drop_column("incoming_emails", "started_at")
