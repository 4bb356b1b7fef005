"""Let a verification find what is there and cannot be read."""

from alembic import op

revision = "20251117_0900"
down_revision = "20251110_0910"

NAME = "ck_reconciliation_findings_kind"
KINDS = (
    *("missing", "different", "ahead", "extra", "object_missing", "object_damaged"),
    *("foreign", "unclaimed"),
)


def upgrade() -> None:
    _let_kinds_be(*KINDS, "object_unreadable")
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE reconciliation_findings VALIDATE CONSTRAINT {NAME}")


def downgrade() -> None:
    op.execute("DELETE FROM reconciliation_findings WHERE kind = 'object_unreadable'")
    # The code before could not show a run that has it.
    op.execute(
        "UPDATE reconciliations SET counts = (counts::jsonb - 'object_unreadable')::json"
        " WHERE counts ->> 'object_unreadable' IS NOT NULL"
    )
    _let_kinds_be(*KINDS)
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE reconciliation_findings VALIDATE CONSTRAINT {NAME}")


def _let_kinds_be(*kinds: str) -> None:
    words = ", ".join(f"'{kind}'" for kind in kinds)
    op.execute(
        f"ALTER TABLE reconciliation_findings DROP CONSTRAINT IF EXISTS {NAME},"
        f" ADD CONSTRAINT {NAME} CHECK (kind IN ({words})) NOT VALID"
    )
