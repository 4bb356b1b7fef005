"""Find the findings that name the copy of a damaged object."""

from alembic import op

revision = "20261203_0920"
down_revision = "20261203_0910"

NAME = "ix_reconciliation_findings_kept"
KEPT = "(detail ->> 'kept_as')"
# The detail of another kind may hold a NUL, which this expression refuses.
DAMAGED = "kind = 'object_damaged'"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
        op.execute(f"CREATE INDEX CONCURRENTLY {NAME} ON reconciliation_findings ({KEPT}) WHERE {DAMAGED}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
