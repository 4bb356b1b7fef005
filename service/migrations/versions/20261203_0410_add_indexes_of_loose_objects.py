"""Add the indexes of objects that may have no name."""

from alembic import op

revision = "20261203_0410"
down_revision = "20261203_0400"

INDEXES = {
    "ix_loose_objects_due": "loose_objects (due_at)",
    "ix_loose_objects_email": "loose_objects (email_id)",
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
