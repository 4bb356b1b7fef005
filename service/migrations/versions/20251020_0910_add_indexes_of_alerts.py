"""Add the indexes of alerts: one open of a kind, those of a kind by time, and what is due to be sent."""

import sqlalchemy as sa
from alembic import op

revision = "20251020_0910"
down_revision = "20251020_0900"

INDEXES = (
    # However many watchers see a thing, one alert is open.
    ("uq_alerts_open", "alerts", ("cause", "key"), "resolved_at IS NULL", True),
    # How often it came back within a day.
    ("ix_alerts_again", "alerts", ("cause", "key", "opened_at"), None, False),
    # What is due on a channel: ORDER BY due_at LIMIT 1.
    ("ix_alert_deliveries_due", "alert_deliveries", ("channel", "due_at"), "status = 'pending'", False),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, table, columns, where, unique in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.create_index(
                name,
                table,
                list(columns),
                unique=unique,
                postgresql_where=sa.text(where) if where else None,
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name, table, *_ in INDEXES:
            op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
