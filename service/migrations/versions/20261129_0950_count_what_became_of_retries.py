"""Add since when a job waits for its attempt, and what became of each e-mail of a bulk retry."""

from alembic import op

revision = "20261129_0950"
down_revision = "20261129_0940"

OUTCOMES = "'repaired', 'failed_again', 'superseded'"
KINDS = (
    *("missing", "different", "ahead", "extra", "object_missing", "object_damaged"),
    *("foreign", "unclaimed", "object_unreadable"),
)
COUNTS = ("repaired", "failed_again", "superseded")
OF_ACTIONS, OF_FINDINGS = "ck_operator_actions_outcome", "ck_reconciliation_findings_kind"


def upgrade() -> None:
    # Of rows from before it is not known. The default comes in a second statement: nothing is rewritten, and rows
    # that the previous version of the code inserts have it.
    op.execute("ALTER TABLE incoming_emails ADD COLUMN IF NOT EXISTS queued_at timestamptz")
    op.execute("ALTER TABLE incoming_emails ALTER COLUMN queued_at SET DEFAULT now()")
    op.execute("ALTER TABLE operator_actions ADD COLUMN IF NOT EXISTS outcome text")
    op.execute(
        f"ALTER TABLE operator_actions DROP CONSTRAINT IF EXISTS {OF_ACTIONS},"
        f" ADD CONSTRAINT {OF_ACTIONS} CHECK (outcome IN ({OUTCOMES})) NOT VALID"
    )
    counts = [f"ADD COLUMN IF NOT EXISTS {name} bigint NOT NULL DEFAULT 0" for name in COUNTS]
    columns = (
        *counts,
        "ADD COLUMN IF NOT EXISTS look_place bigint NOT NULL DEFAULT 0",
        "ADD COLUMN IF NOT EXISTS look_at timestamptz NOT NULL DEFAULT now()",
        "ADD COLUMN IF NOT EXISTS settled_at timestamptz",
    )
    op.execute(f"ALTER TABLE bulk_retries {', '.join(columns)}")
    _let_kinds_be(*KINDS, "not_sent")
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE operator_actions VALIDATE CONSTRAINT {OF_ACTIONS}")
        op.execute(f"ALTER TABLE reconciliation_findings VALIDATE CONSTRAINT {OF_FINDINGS}")


def downgrade() -> None:
    op.execute("DELETE FROM reconciliation_findings WHERE kind = 'not_sent'")
    # The previous version of the code could not show a run that has it.
    op.execute(
        "UPDATE reconciliations SET counts = (counts::jsonb - 'not_sent')::json,"
        " repaired = (repaired::jsonb - 'not_sent')::json WHERE counts ->> 'not_sent' IS NOT NULL"
    )
    # Nor could it read this filter.
    op.execute(
        "UPDATE bulk_retries SET filter = (filter::jsonb - 'sync_status')::json,"
        " status = CASE status WHEN 'running' THEN 'cancelled' ELSE status END"
        " WHERE filter ->> 'sync_status' = 'unsynced'"
    )
    _let_kinds_be(*KINDS)
    dropped = ", ".join(f"DROP COLUMN {name}" for name in (*COUNTS, "look_place", "look_at", "settled_at"))
    op.execute(f"ALTER TABLE bulk_retries {dropped}")
    op.execute("ALTER TABLE operator_actions DROP COLUMN outcome")
    op.execute("ALTER TABLE incoming_emails DROP COLUMN queued_at")
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE reconciliation_findings VALIDATE CONSTRAINT {OF_FINDINGS}")


def _let_kinds_be(*kinds: str) -> None:
    words = ", ".join(f"'{kind}'" for kind in kinds)
    op.execute(
        f"ALTER TABLE reconciliation_findings DROP CONSTRAINT IF EXISTS {OF_FINDINGS},"
        f" ADD CONSTRAINT {OF_FINDINGS} CHECK (kind IN ({words})) NOT VALID"
    )
