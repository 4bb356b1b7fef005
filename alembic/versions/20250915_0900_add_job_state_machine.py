"""Add the job's state machine: when it started and ended, its retries, what it has to fetch."""

import sqlalchemy as sa

from alembic import op

revision = "20250915_0900"
down_revision = "20250901_0900"


COLUMNS = (
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("completed_at", sa.DateTime(timezone=True)),
    sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attachment_urls", sa.JSON),
)


def upgrade() -> None:
    # The columns are committed before the index is built: who runs it again finds them there.
    for column in COLUMNS:
        op.add_column("incoming_emails", column.copy(), if_not_exists=True)
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
    for column in reversed(COLUMNS):
        op.drop_column("incoming_emails", column.name)
