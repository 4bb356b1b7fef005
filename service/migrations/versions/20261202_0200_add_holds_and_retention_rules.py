"""Add holds, which forbid to delete e-mails, and retention rules, which say when e-mails are deleted."""

import sqlalchemy as sa
from alembic import op

revision = "20261202_0200"
down_revision = "20261202_0110"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "holds",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("filter", sa.JSON),
        sa.Column("set_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.Column("released_at", TIME),
        sa.Column("released_by", sa.Text),
        sa.Column("release_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
        sa.UniqueConstraint("name", name="uq_holds_name"),
        if_not_exists=True,
    )
    op.create_table(
        "held_emails",
        sa.Column("email_id", sa.BigInteger, nullable=False),
        sa.Column("hold_id", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("email_id", "hold_id", name="pk_held_emails"),
        sa.ForeignKeyConstraint(["hold_id"], ["holds.id"], name="fk_held_emails_hold_id"),
        if_not_exists=True,
    )
    op.create_table(
        "retention_rules",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("filter", sa.JSON, nullable=False),
        sa.Column("keep_days", sa.Integer),
        sa.Column("includes_failed", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("created_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_retention_rules"),
        sa.UniqueConstraint("name", name="uq_retention_rules_name"),
        sa.CheckConstraint("keep_days >= 0", name="keep_days"),  # the naming convention adds the prefix
        if_not_exists=True,
    )
    op.execute("ALTER TABLE operator_actions ADD COLUMN IF NOT EXISTS subject text")


def downgrade() -> None:
    op.execute("ALTER TABLE operator_actions DROP COLUMN IF EXISTS subject")
    for table in ("retention_rules", "held_emails", "holds"):
        op.drop_table(table, if_exists=True)
