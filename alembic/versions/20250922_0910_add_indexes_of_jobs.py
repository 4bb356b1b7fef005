"""Bring the rows from before into the state machine, and add its indexes. All of it may be repeated."""

import sqlalchemy as sa

from alembic import op

revision = "20250922_0910"
down_revision = "20250922_0900"

WAITING = "processing_status IN ('received', 'queued')"
PROCESSING = "processing_status = 'processing'"
INDEXES = (
    ("ix_incoming_emails_due", ["due_at"], WAITING),
    ("ix_incoming_emails_lease", ["lease_until"], PROCESSING),
    ("ix_incoming_emails_ticket", ["zendesk_ticket_id", "id"], None),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Nobody holds a lease on a job from before there were leases: it starts again.
        op.execute(
            "UPDATE incoming_emails SET processing_status = 'received'"
            " WHERE processing_status NOT IN ('received', 'queued', 'processing', 'completed', 'failed')"
            " OR (processing_status = 'processing' AND lease_until IS NULL)"
        )
        op.execute("ALTER TABLE incoming_emails VALIDATE CONSTRAINT ck_incoming_emails_processing_status")
        for name, columns, where in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.create_index(
                name,
                "incoming_emails",
                columns,
                postgresql_where=where and sa.text(where),
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name, *_ in INDEXES:
            op.drop_index(name, "incoming_emails", postgresql_concurrently=True, if_exists=True)
