"""Create incoming_emails, as it was before jobs were tracked."""

import sqlalchemy as sa
from alembic import op

revision = "20250901_0900"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "incoming_emails",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("zendesk_ticket_id", sa.Text, nullable=False),
        sa.Column("from_email", sa.Text),
        sa.Column("from_name", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("processing_status", sa.Text, nullable=False, server_default="received"),
        sa.Column("processing_error", sa.Text),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("sync_status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("sync_error", sa.Text),
        sa.Column("sync_retry_count", sa.Integer, nullable=False, server_default="0"),
        # A row that somebody writes by hand gets a key of its own.
        sa.Column(
            "idempotency_key", sa.Text, nullable=False, server_default=sa.text("gen_random_uuid()::text")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_incoming_emails"),
        sa.UniqueConstraint("idempotency_key", name="uq_incoming_emails_idempotency_key"),
    )


def downgrade() -> None:
    op.drop_table("incoming_emails")
