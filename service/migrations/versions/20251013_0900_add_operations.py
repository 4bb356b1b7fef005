"""Add what operators did and asked for, the workers, and the host that a failure is about."""

import sqlalchemy as sa
from alembic import op

revision = "20251013_0900"
down_revision = "20251006_0910"


def upgrade() -> None:
    op.add_column("incoming_emails", sa.Column("error_host", sa.Text()), if_not_exists=True)
    op.create_table(
        "operator_actions",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("email_id", sa.BigInteger()),
        sa.Column("quarantine_id", sa.BigInteger()),
        sa.Column("bulk_retry_id", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_operator_actions"),
        if_not_exists=True,
    )
    op.create_table(
        "bulk_retries",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("filter", sa.JSON(), nullable=False),
        sa.Column("per_second", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("planned", sa.BigInteger(), nullable=False),
        sa.Column("planned_capped", sa.Boolean(), nullable=False),
        sa.Column("retried", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("place_time", sa.DateTime(timezone=True)),
        sa.Column("place_id", sa.BigInteger()),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("status IN ('running', 'done', 'cancelled')", name=op.f("ck_bulk_retries_status")),
        sa.PrimaryKeyConstraint("id", name="pk_bulk_retries"),
        if_not_exists=True,
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True)),
        sa.Column("jobs", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("metrics", sa.Text()),
        sa.PrimaryKeyConstraint("name", "pid", name="pk_workers"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("workers")
    op.drop_table("bulk_retries")
    op.drop_table("operator_actions")
    op.drop_column("incoming_emails", "error_host")
