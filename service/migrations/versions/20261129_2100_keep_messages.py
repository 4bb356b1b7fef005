"""Keep the message of each e-mail, all its announcements, and the words to find it by."""

import sqlalchemy as sa
from alembic import op

revision = "20261129_2100"
down_revision = "20261129_1040"

# In one statement a table: until the transaction ends, everybody waits for the answers in between.
COLUMNS = {
    "incoming_emails": {
        "identified": "boolean NOT NULL DEFAULT false",
        "has_news": "boolean NOT NULL DEFAULT false",
    },
    "attachments": {"zendesk_id": "text", "inline": "boolean", "malware": "text"},
}
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    # First, because it takes the strongest lock: a foreign key takes a weaker one, and to strengthen that may deadlock.
    for table, columns in COLUMNS.items():
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in columns.items())
        op.execute(f"ALTER TABLE {table} {added}")
    _create_messages()
    _create_announcements()
    _create_merged_emails()
    _create_tickets()
    _create_api_budgets()
    _create_email_words()


def downgrade() -> None:
    for table, columns in COLUMNS.items():
        dropped = ", ".join(f"DROP COLUMN IF EXISTS {name}" for name in columns)
        op.execute(f"ALTER TABLE {table} {dropped}")
    for table in ("email_words", "api_budgets", "tickets", "merged_emails", "announcements", "messages"):
        op.drop_table(table, if_exists=True)


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("email_id", sa.BigInteger, nullable=False),
        sa.Column("comment_id", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("audit_id", "channel")),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("public", sa.Boolean),
        *(sa.Column(name, sa.Text) for name in ("subject", "from_address", "from_name")),
        *(sa.Column(name, sa.JSON, nullable=False) for name in ("to", "cc")),
        sa.Column("message_id", sa.Text),
        *(sa.Column(name, TIME) for name in ("sent_at", "created_at")),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("text_size", sa.BigInteger, nullable=False),
        sa.Column("has_html", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("record_sha256", "record_key")),
        sa.Column("record_size", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("original", "original_sha256", "original_key")),
        sa.Column("original_size", sa.BigInteger),
        sa.Column("fetched_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("email_id", name="pk_messages"),
        sa.ForeignKeyConstraint(["email_id"], ["incoming_emails.id"], name="fk_messages_email_id"),
        sa.CheckConstraint("direction IN ('inbound', 'outbound')", name="direction"),
        sa.CheckConstraint("original IN ('stored', 'not_available')", name="original"),
        if_not_exists=True,
    )


def _create_announcements() -> None:
    op.create_table(
        "announcements",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("email_id", sa.BigInteger, nullable=False),
        sa.Column("received_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("signature_hash", sa.LargeBinary),
        *(sa.Column(name, sa.Text) for name in ("account_id", "invocation_id")),
        sa.Column("raw_body", sa.LargeBinary, nullable=False),
        sa.Column("raw_headers", sa.JSON, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_announcements"),
        sa.ForeignKeyConstraint(["email_id"], ["incoming_emails.id"], name="fk_announcements_email_id"),
        sa.UniqueConstraint("idempotency_key", name="uq_announcements_idempotency_key"),
        if_not_exists=True,
    )


def _create_merged_emails() -> None:
    op.create_table(
        "merged_emails",
        sa.Column("id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("email_id", sa.BigInteger, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("merged_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_merged_emails"),
        sa.ForeignKeyConstraint(["email_id"], ["incoming_emails.id"], name="fk_merged_emails_email_id"),
        if_not_exists=True,
    )


def _create_tickets() -> None:
    op.create_table(
        "tickets",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("account_id", "ticket_id")),
        *(sa.Column(name, sa.Text) for name in ("subject", "recipient")),
        sa.Column("subject_at", TIME),
        sa.Column("asked_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("looking_until", TIME),
        sa.PrimaryKeyConstraint("account_id", "ticket_id", name="pk_tickets"),
        if_not_exists=True,
    )


def _create_api_budgets() -> None:
    op.create_table(
        "api_budgets",
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("window_ends_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("used", sa.Integer, nullable=False, server_default="0"),
        sa.Column("calls_per_minute", sa.Integer),
        sa.Column("no_originals_at", TIME),
        sa.PrimaryKeyConstraint("account", name="pk_api_budgets"),
        if_not_exists=True,
    )


def _create_email_words() -> None:
    op.create_table(
        "email_words",
        sa.Column("email_id", sa.BigInteger, nullable=False),
        sa.Column("words", sa.dialects.postgresql.TSVECTOR, nullable=False),
        sa.PrimaryKeyConstraint("email_id", name="pk_email_words"),
        sa.ForeignKeyConstraint(["email_id"], ["incoming_emails.id"], name="fk_email_words_email_id"),
        if_not_exists=True,
    )
