"""Let an erasure say why Postgres refused its last step."""

from alembic import op

revision = "20261203_0910"
down_revision = "20261203_0500"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE erasures ADD COLUMN IF NOT EXISTS error_code text, ADD COLUMN IF NOT EXISTS error text"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE erasures DROP COLUMN IF EXISTS error_code, DROP COLUMN IF EXISTS error")
