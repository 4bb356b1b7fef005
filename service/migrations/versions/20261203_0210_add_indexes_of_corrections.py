"""Add the indexes of corrections, and the one by which an e-mail finds webhooks that have its key, but another body."""

from alembic import op

revision = "20261203_0210"
down_revision = "20261203_0200"

INDEXES = {
    "uq_quarantine_corrections_accepted": "UNIQUE INDEX CONCURRENTLY {} ON quarantine_corrections (quarantine_id)"
    " WHERE error_code IS NULL",
    "ix_quarantine_corrections_webhook": "INDEX CONCURRENTLY {} ON quarantine_corrections (quarantine_id, id)",
    "ix_quarantined_webhooks_reused_key": "INDEX CONCURRENTLY {} ON quarantined_webhooks (reused_key)"
    " WHERE reused_key IS NOT NULL",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, kind in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {kind.format(name)}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
