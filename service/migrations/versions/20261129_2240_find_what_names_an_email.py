"""Find ignored webhooks and findings by their e-mail: a merge lets them name another one."""

from alembic import op

revision = "20261129_2240"
down_revision = "20261129_2230"

TABLES = ("ignored_webhooks", "reconciliation_findings")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table in TABLES:
            name = f"ix_{table}_email"
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {table} (email_id) WHERE email_id IS NOT NULL")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for table in TABLES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS ix_{table}_email")
