"""Add filters of lists under a name, and who looks after a group of failures."""

import sqlalchemy as sa
from alembic import op

revision = "20261203_0220"
down_revision = "20261203_0210"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "saved_filters",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("filter", sa.JSON, nullable=False),
        sa.Column("saved_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("saved_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_saved_filters"),
        sa.UniqueConstraint("name", name="uq_saved_filters_name"),
        if_not_exists=True,
    )
    op.create_table(
        "acknowledgements",
        sa.Column("error_code", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("error_code", "host", name="pk_acknowledgements"),
        if_not_exists=True,
    )


def downgrade() -> None:
    for table in ("acknowledgements", "saved_filters"):
        op.drop_table(table, if_exists=True)
