"""Add the indexes of reconciliations: one running of a kind, the newest that is done, and what each found."""

from alembic import op

revision = "20251110_0910"
down_revision = "20251110_0900"

INDEXES = {
    # However many begin one, one runs.
    "uq_reconciliations_running": "UNIQUE INDEX {} ON reconciliations (kind) WHERE status = 'running'",
    # The newest that is done: ORDER BY id DESC LIMIT 1.
    "ix_reconciliations_done": "INDEX {} ON reconciliations (kind, id) WHERE status = 'done'",
    # What a run found, page by page, and what goes away with it.
    "ix_reconciliation_findings_run": "INDEX {} ON reconciliation_findings (reconciliation_id, id)",
    # Whether an e-mail was replayed: then it is older than those whose ids are lower.
    "ix_quarantined_webhooks_email": "INDEX {} ON quarantined_webhooks (email_id) WHERE email_id IS NOT NULL",
    # The list of what people did: a reconciliation may put a million e-mails right, which is told with each of them.
    "ix_operator_actions_by_hand": (
        "INDEX {} ON operator_actions (id)"
        " WHERE (email_id IS NULL OR bulk_retry_id IS NULL) AND actor <> 'reconcile'"
    ),
}
BEFORE = "operator_actions (id) WHERE email_id IS NULL OR bulk_retry_id IS NULL"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {definition.format(f'CONCURRENTLY {name}')}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY ix_operator_actions_by_hand ON {BEFORE}")
