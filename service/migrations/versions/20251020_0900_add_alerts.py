"""Add alerts, what is sent of them, and the row that their watchers share."""

import sqlalchemy as sa
from alembic import op

revision = "20251020_0900"
down_revision = "20251013_0910"

NOW = sa.func.now()


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True)),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("email_id", sa.BigInteger()),
        sa.CheckConstraint(
            "cause IN ('failures', 'quarantine', 'waiting', 'silence', 'signatures', 'workers', 'no_worker')",
            name=op.f("ck_alerts_cause"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
        if_not_exists=True,
    )
    op.create_table(
        "alert_deliveries",
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column("news", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.CheckConstraint("news IN ('opened', 'resolved')", name=op.f("ck_alert_deliveries_news")),
        sa.CheckConstraint(
            "channel IN ('mail', 'slack', 'webhook')", name=op.f("ck_alert_deliveries_channel")
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'sent', 'failed')", name=op.f("ck_alert_deliveries_status")
        ),
        sa.ForeignKeyConstraint(["alert_id"], ["alerts.id"], name="fk_alert_deliveries_alert_id"),
        sa.PrimaryKeyConstraint("alert_id", "news", "channel", name="pk_alert_deliveries"),
        if_not_exists=True,
    )
    op.create_table(
        "alert_watch",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pass_number", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=NOW, nullable=False),
        sa.Column("newest_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("known_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bad_signatures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("bad_signature_code", sa.Text()),
        sa.Column("bad_signature_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("id = 1", name=op.f("ck_alert_watch_one_row")),
        sa.PrimaryKeyConstraint("id", name="pk_alert_watch"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("alert_watch")
    op.drop_table("alert_deliveries")
    op.drop_table("alerts")
