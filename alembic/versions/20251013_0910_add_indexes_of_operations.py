"""Add indexes of senders, failures and operations, for the lists that operators look at."""

import sqlalchemy as sa

from alembic import op

revision = "20251013_0910"
down_revision = "20251013_0900"

INDEXES = (
    # All of a sender: ORDER BY id DESC LIMIT 51.
    ("ix_incoming_emails_sender", "incoming_emails", ("lower(from_email)", "id"), None),
    # All with an error, also those that will have another attempt: ORDER BY id DESC LIMIT 51.
    ("ix_incoming_emails_error", "incoming_emails", ("error_code", "id"), "error_code IS NOT NULL"),
    # The groups of failures, found by skipping from one to the next; the count, first and last of each.
    (
        "ix_incoming_emails_failures",
        "incoming_emails",
        ("coalesce(error_code, '')", "coalesce(error_host, '')", "received_at", "id"),
        "processing_status = 'failed'",
    ),
    # The e-mails that hold a content: ORDER BY email_id DESC LIMIT 101.
    ("ix_attachments_sha256", "attachments", ("sha256", "email_id"), "sha256 IS NOT NULL"),
    # What operators did to an e-mail; the retries of many that are due for a step.
    ("ix_operator_actions_email", "operator_actions", ("email_id", "id"), "email_id IS NOT NULL"),
    ("ix_bulk_retries_running", "bulk_retries", ("next_at",), "status = 'running'"),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, table, columns, where in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.create_index(
                name,
                table,
                [sa.text(column) if "(" in column else column for column in columns],
                postgresql_where=sa.text(where) if where else None,
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name, table, *_ in INDEXES:
            op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
