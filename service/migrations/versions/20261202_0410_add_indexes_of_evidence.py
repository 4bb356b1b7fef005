"""Add the indexes of the evidence log: entries by e-mail and by act, and heads that the storage lacks."""

from alembic import op

revision = "20261202_0410"
down_revision = "20261202_0400"

INDEXES = {
    "ix_evidence_entries_email": "evidence_entries (email_id, id) WHERE email_id IS NOT NULL",
    "ix_evidence_entries_act": "evidence_entries (subject, id) WHERE kind = 'act'",
    "ix_evidence_heads_not_stored": "evidence_heads (number) WHERE stored_at IS NULL",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, rows in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {rows}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
