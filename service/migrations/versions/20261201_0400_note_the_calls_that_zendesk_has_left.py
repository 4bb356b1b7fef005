"""Note how many calls Zendesk has left in its minute: once they are few, all workers together spread them."""

from alembic import op

revision = "20261201_0400"
down_revision = "20261201_0300"

COLUMNS = {
    "calls_left": "integer",
    "resets_at": "timestamptz",
    "next_call_at": "timestamptz",
    "next_retry_at": "timestamptz",
    "paced_since": "timestamptz",
}


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.execute(f"ALTER TABLE api_budgets ADD COLUMN IF NOT EXISTS {name} {kind}")


def downgrade() -> None:
    for name in COLUMNS:
        op.execute(f"ALTER TABLE api_budgets DROP COLUMN IF EXISTS {name}")
