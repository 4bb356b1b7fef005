"""Note objects before they are put: one that no row names after all is found, and removed."""

import sqlalchemy as sa
from alembic import op

revision = "20261203_0400"
down_revision = "20261203_0220"


def upgrade() -> None:
    op.create_table(
        "loose_objects",
        sa.Column("number", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("email_id", sa.BigInteger),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("number", name="pk_loose_objects"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("loose_objects", if_exists=True)
