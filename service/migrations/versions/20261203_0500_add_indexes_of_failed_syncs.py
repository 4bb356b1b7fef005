"""Add the indexes of failed syncs by the status of the job, and by the code of an error."""

from alembic import op

revision = "20261203_0500"
down_revision = "20261203_0420"

FAILED = "sync_status = 'failed'"
INDEXES = {
    "ix_incoming_emails_not_synced_status": f"incoming_emails (processing_status, id) WHERE {FAILED}",
    "ix_incoming_emails_sync_error": f"incoming_emails (sync_error_code, id) WHERE {FAILED}",
    "ix_incoming_emails_failed_twice": (
        f"incoming_emails (error_code, id) WHERE {FAILED} AND error_code IS NOT NULL"
    ),
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
