"""Add indexes of senders, failures and operations, for the lists that operators look at."""

from alembic import op

revision = "20251013_0910"
down_revision = "20251013_0900"

INDEXES = {
    # All of a sender: ORDER BY id DESC LIMIT 51. An index takes no values that are much longer.
    "ix_incoming_emails_sender": "incoming_emails (left(lower(from_email), 400), id)",
    # All with an error, also those that will have another attempt: ORDER BY id DESC LIMIT 51.
    "ix_incoming_emails_error": "incoming_emails (error_code, id) WHERE error_code IS NOT NULL",
    # The groups of failures, found by skipping from one to the next; the count, first and last of each. Without the
    # columns themselves, Postgres would read the rows for what the index has.
    "ix_incoming_emails_failures": """
        incoming_emails (coalesce(error_code, ''), coalesce(error_host, ''), received_at, id)
        INCLUDE (error_code, error_host) WHERE processing_status = 'failed'
    """,
    # The e-mails that hold a content: ORDER BY email_id DESC LIMIT 101.
    "ix_attachments_sha256": "attachments (sha256, email_id) WHERE sha256 IS NOT NULL",
    # What operators did to an e-mail; the retries of many of which a step is due.
    "ix_operator_actions_email": "operator_actions (email_id, id) WHERE email_id IS NOT NULL",
    "ix_operator_actions_by_hand": "operator_actions (id) WHERE email_id IS NULL OR bulk_retry_id IS NULL",
    "ix_bulk_retries_running": "bulk_retries (next_at) WHERE status = 'running'",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition.strip()}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
