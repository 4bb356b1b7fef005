"""Add the indexes of failed syncs by the code of an error; the index of all of them also has the status of the job."""

from alembic import op

revision = "20261203_0500"
down_revision = "20261203_0420"

FAILED = "sync_status = 'failed'"
INDEXES = {
    "ix_incoming_emails_failed_syncs": (
        f"incoming_emails (id) INCLUDE (processing_status, sync_status) WHERE {FAILED}"
    ),
    "ix_incoming_emails_sync_error": f"incoming_emails (sync_error_code, id) WHERE {FAILED}",
    "ix_incoming_emails_failed_twice": (
        f"incoming_emails (error_code, id) WHERE {FAILED} AND error_code IS NOT NULL"
    ),
}
# The first of the new indexes replaces it, also for the previous version.
BEFORE = {"ix_incoming_emails_not_synced": f"incoming_emails (id) WHERE {FAILED}"}


def upgrade() -> None:
    _exchange(BEFORE, INDEXES)


def downgrade() -> None:
    _exchange(INDEXES, BEFORE)


def _exchange(old: dict[str, str], new: dict[str, str]) -> None:
    with op.get_context().autocommit_block():
        for name, rows in new.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {rows}")
        for name in old:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
