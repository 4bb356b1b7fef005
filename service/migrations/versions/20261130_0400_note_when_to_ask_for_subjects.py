"""Note when an account is to be asked for the subjects of tickets: one call serves all that wait."""

from alembic import op

revision = "20261130_0400"
down_revision = "20261129_2250"


def upgrade() -> None:
    op.execute("ALTER TABLE api_budgets ADD COLUMN IF NOT EXISTS subjects_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE api_budgets DROP COLUMN IF EXISTS subjects_at")
