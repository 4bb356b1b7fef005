"""Say which documents replace those of merged e-mails, and keep the columns of a previous system."""

from alembic import op

revision = "20261129_2230"
down_revision = "20261129_2110"

COLUMNS = {"version": "integer", "synced_at": "timestamptz", "other_columns": "json"}


def upgrade() -> None:
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in COLUMNS.items())
    op.execute(f"ALTER TABLE merged_emails {added}")


def downgrade() -> None:
    dropped = ", ".join(f"DROP COLUMN IF EXISTS {name}" for name in COLUMNS)
    op.execute(f"ALTER TABLE merged_emails {dropped}")
