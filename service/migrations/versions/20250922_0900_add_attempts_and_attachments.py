"""Add what a job needs to survive anything: the raw request, lease and fence, attempts, attachments, quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "20250922_0900"
down_revision = "20250915_0900"

# In one statement: until the transaction ends, everybody waits for the answers in between.
COLUMNS = {
    "raw_body": "bytea",
    "raw_headers": "json",
    "account_id": "text",
    "invocation_id": "text",
    "comment_id": "text",
    "sent_at": "timestamptz",
    "error_code": "text",
    "attempt_number": "integer NOT NULL DEFAULT 0",
    "due_at": "timestamptz NOT NULL DEFAULT now()",
    "lease_until": "timestamptz",
}


def upgrade() -> None:
    _create_quarantined_webhooks()
    # Before the foreign keys: they need a weaker lock on the same table, and then wait for nobody.
    added = ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in COLUMNS.items())
    op.execute(f"ALTER TABLE incoming_emails {added}")
    _create_attachments()
    _create_attempts()


def downgrade() -> None:
    op.drop_table("quarantined_webhooks")
    op.drop_table("attempts")
    op.drop_table("attachments")
    dropped = ", ".join(f"DROP COLUMN {name}" for name in COLUMNS)
    op.execute(f"ALTER TABLE incoming_emails {dropped}")


def _create_attachments() -> None:
    op.create_table(
        "attachments",
        sa.Column("email_id", sa.BigInteger, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("source_url", sa.Text, nullable=False),
        sa.Column("file_name", sa.Text),
        sa.Column("declared_type", sa.Text),
        sa.Column("declared_size", sa.BigInteger),
        sa.Column("status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("sha256", sa.Text),
        sa.Column("size", sa.BigInteger),
        sa.Column("detected_type", sa.Text),
        sa.Column("object_key", sa.Text),
        sa.Column("stored_at", sa.DateTime(timezone=True)),
        sa.Column("error_code", sa.Text),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("email_id", "position", name="pk_attachments"),
        sa.ForeignKeyConstraint(["email_id"], ["incoming_emails.id"], name="fk_attachments_email_id"),
        sa.CheckConstraint("status IN ('pending', 'stored', 'failed')", name="ck_attachments_status"),
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("email_id", sa.BigInteger, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("outcome", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("email_id", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(["email_id"], ["incoming_emails.id"], name="fk_attempts_email_id"),
        sa.CheckConstraint(
            "outcome IN ('completed', 'released', 'failed', 'handed_back', 'abandoned')",
            name="ck_attempts_outcome",
        ),
    )


def _create_quarantined_webhooks() -> None:
    op.create_table(
        "quarantined_webhooks",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text),
        sa.Column("invocation_id", sa.Text),
        sa.Column("raw_body", sa.LargeBinary, nullable=False),
        sa.Column("raw_headers", sa.JSON, nullable=False),
        sa.Column("error_code", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quarantined_webhooks"),
        sa.UniqueConstraint("idempotency_key", name="uq_quarantined_webhooks_idempotency_key"),
    )
