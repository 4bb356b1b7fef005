"""Bring the rows from before into the state machine, and add its indexes. All of it may be repeated."""

import sqlalchemy as sa
from alembic import op

revision = "20250922_0910"
down_revision = "20250922_0900"

STATUSES = "processing_status IN ('received', 'queued', 'processing', 'completed', 'failed')"
WAITING = "processing_status IN ('received', 'queued')"
PROCESSING = "processing_status = 'processing'"
INDEXES = (
    ("ix_incoming_emails_due", ["due_at"], WAITING),
    ("ix_incoming_emails_lease", ["lease_until"], PROCESSING),
    ("ix_incoming_emails_ticket", ["zendesk_ticket_id", "id"], None),
)

# A transaction for every thousand rows, so that no writer waits long. It waits for no writer either: whoever
# holds a row that is skipped is gone by the time the constraint gets its lock, and the second pass sees the row.
START_AGAIN = """
DO $$
DECLARE
    final bigint := (SELECT max(id) FROM incoming_emails);
    done bigint := (SELECT min(id) - 1 FROM incoming_emails);
    until bigint;
BEGIN
    WHILE done < final LOOP
        SELECT max(id) INTO until FROM (
            SELECT id FROM incoming_emails WHERE id > done ORDER BY id LIMIT 1000
        ) AS batch;
        UPDATE incoming_emails SET processing_status = 'received' WHERE id = ANY (ARRAY(
            SELECT id FROM incoming_emails
            WHERE id > done AND id <= until AND ({rows}) FOR UPDATE SKIP LOCKED
        ));
        COMMIT;
        done := until;
    END LOOP;
END $$
"""


def upgrade() -> None:
    # First without the constraint: it would refuse whatever else the code before may write to such a row.
    _start_again(f"NOT ({STATUSES})")
    op.execute(
        "ALTER TABLE incoming_emails DROP CONSTRAINT IF EXISTS ck_incoming_emails_processing_status,"
        f" ADD CONSTRAINT ck_incoming_emails_processing_status CHECK ({STATUSES}) NOT VALID"
    )
    # Nobody holds a lease on a job from before there were leases: it starts again.
    _start_again(f"NOT ({STATUSES}) OR ({PROCESSING} AND lease_until IS NULL)")
    with op.get_context().autocommit_block():
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
    op.execute("ALTER TABLE incoming_emails DROP CONSTRAINT IF EXISTS ck_incoming_emails_processing_status")
    with op.get_context().autocommit_block():
        for name, *_ in INDEXES:
            op.drop_index(name, "incoming_emails", postgresql_concurrently=True, if_exists=True)


def _start_again(rows: str) -> None:
    with op.get_context().autocommit_block():
        op.execute(START_AGAIN.format(rows=rows))
