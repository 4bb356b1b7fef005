"""Add the indexes of removals, and that of findings by key: the details of a finding hold a copy of a document."""

from alembic import op

revision = "20261202_0110"
down_revision = "20261202_0100"

INDEXES = {
    "uq_receipts_running_purge": "receipts (kind) WHERE kind = 'purge' AND status = 'running'",
    "ix_removed_emails_receipt": "removed_emails (receipt_id)",
    "ix_removed_emails_key": "removed_emails (document_key)",
    "ix_removed_emails_due": (
        "removed_emails (target_due_at) WHERE target_due_at IS NOT NULL AND target_done_at IS NULL"
    ),
    "ix_removed_emails_comment": "removed_emails (ticket_id, comment_id) WHERE comment_id IS NOT NULL",
    "ix_objects_to_remove_due": "objects_to_remove (due_at) WHERE state <> 'removed'",
    "ix_objects_to_remove_removed": "objects_to_remove (removed_at) WHERE state = 'removed'",
    "ix_objects_to_remove_receipt": "objects_to_remove (receipt_id, state)",
    "ix_reconciliation_findings_key": "reconciliation_findings (key)",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, rows in INDEXES.items():
            unique = "UNIQUE " if name.startswith("uq_") else ""
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {unique}INDEX CONCURRENTLY {name} ON {rows}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
