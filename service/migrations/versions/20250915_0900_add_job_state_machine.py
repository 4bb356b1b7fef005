"""Add the job's state machine: when it started and ended, its retries, what it has to fetch."""

from alembic import op

revision = "20250915_0900"
down_revision = "20250901_0900"


# In one statement: until the transaction ends, everybody waits for the answers in between.
COLUMNS = {
    "started_at": "timestamptz",
    "completed_at": "timestamptz",
    "retry_count": "integer NOT NULL DEFAULT 0",
    "attachment_urls": "json",
}


def upgrade() -> None:
    # The columns are committed before the index is built: who runs it again finds them there.
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in COLUMNS.items())
    op.execute(f"ALTER TABLE incoming_emails {added}")
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
    dropped = ", ".join(f"DROP COLUMN {name}" for name in COLUMNS)
    op.execute(f"ALTER TABLE incoming_emails {dropped}")
