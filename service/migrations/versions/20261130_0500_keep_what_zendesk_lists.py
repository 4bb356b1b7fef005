"""Keep what Zendesk itself lists: how far it was searched, its e-mails, suspended ones, and our webhook there."""

import sqlalchemy as sa
from alembic import op

revision = "20261130_0500"
down_revision = "20261130_0400"

COLUMNS = {
    "origin": "text NOT NULL DEFAULT 'webhook'",
    "zendesk_state": "text",
    "zendesk_state_at": "timestamptz",
}
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in COLUMNS.items())
    op.execute(f"ALTER TABLE incoming_emails {added}")
    _create_sources()
    _create_backfills()
    _create_source_emails()
    _create_suspended_emails()
    _create_signing_secrets()
    _create_connections()


def downgrade() -> None:
    for table in (
        "connections",
        "signing_secrets",
        "suspended_emails",
        "source_emails",
        "backfills",
        "sources",
    ):
        op.drop_table(table, if_exists=True)
    dropped = ", ".join(f"DROP COLUMN IF EXISTS {name}" for name in COLUMNS)
    op.execute(f"ALTER TABLE incoming_emails {dropped}")


def _create_sources() -> None:
    op.create_table(
        "sources",
        _text("account"),
        _maybe_text("account_id"),
        sa.Column("account_is_told", sa.Boolean, nullable=False, server_default=sa.false()),
        _now("began_at"),
        *(sa.Column(name, TIME) for name in ("complete_since", "watermark", "checked_at")),
        _now("due_at"),
        sa.Column("leg", sa.Text, nullable=False, server_default="events"),
        _now("leg_since"),
        *(_maybe_text(name) for name in ("leg_reason", "error_code", "error")),
        *(sa.Column(name, TIME) for name in ("failed_at", "lease_until")),
        sa.Column("lease_number", sa.Integer, nullable=False, server_default="0"),
        *(sa.Column(name, TIME) for name in ("suspended_at", "proof_day")),
        sa.Column("proof", sa.JSON),
        sa.PrimaryKeyConstraint("account", name="pk_sources"),
        sa.CheckConstraint("leg IN ('events', 'lists')", name="leg"),
        if_not_exists=True,
    )


def _create_backfills() -> None:
    op.create_table(
        "backfills",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        *(_text(name) for name in ("account", "kind")),
        sa.Column("since", TIME, nullable=False),
        sa.Column("until", TIME),
        sa.Column("dry_run", sa.Boolean, nullable=False, server_default=sa.false()),
        _maybe_text("actor"),
        _text("leg"),
        sa.Column("position", sa.JSON),
        *(sa.Column(name, TIME) for name in ("reached", "listed_since")),
        _now("started_at"),
        sa.Column("finished_at", TIME),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in ("found", "added", "calls")
        ),
        _maybe_text("error_code"),
        sa.PrimaryKeyConstraint("id", name="pk_backfills"),
        sa.ForeignKeyConstraint(["account"], ["sources.account"], name="fk_backfills_account"),
        sa.CheckConstraint("kind IN ('current', 'history')", name="kind"),
        sa.CheckConstraint("leg IN ('events', 'lists')", name="leg"),
        if_not_exists=True,
    )


def _create_source_emails() -> None:
    op.create_table(
        "source_emails",
        *(_text(name) for name in ("account", "ticket_id", "comment_id")),
        sa.Column("created_at", TIME, nullable=False),
        _now("found_at"),
        sa.PrimaryKeyConstraint("account", "ticket_id", "comment_id", name="pk_source_emails"),
        if_not_exists=True,
    )


def _create_suspended_emails() -> None:
    op.create_table(
        "suspended_emails",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        *(_text(name) for name in ("account", "suspended_id")),
        *(
            _maybe_text(name)
            for name in (
                "ticket_id",
                "subject",
                "from_address",
                "from_name",
                "recipient",
                "cause",
                "message_id",
            )
        ),
        _text("text"),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("created_at", TIME),
        *(_text(name) for name in ("record_sha256", "record_key")),
        sa.Column("record_size", sa.BigInteger, nullable=False),
        sa.Column("contents", sa.ARRAY(sa.Text), nullable=False, server_default="{}"),
        *(_now(name) for name in ("found_at", "seen_at")),
        sa.Column("gone_at", TIME),
        sa.Column("email_id", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_suspended_emails"),
        if_not_exists=True,
    )


def _create_signing_secrets() -> None:
    op.create_table(
        "signing_secrets",
        *(_text(name) for name in ("account", "webhook_id")),
        sa.Column("encrypted", sa.LargeBinary, nullable=False),
        _now("fetched_at"),
        sa.PrimaryKeyConstraint("account", "webhook_id", name="pk_signing_secrets"),
        if_not_exists=True,
    )


def _create_connections() -> None:
    op.create_table(
        "connections",
        *(_text(name) for name in ("account", "endpoint", "webhook_id", "trigger_id", "condition")),
        _now("connected_at"),
        sa.Column("checked_at", TIME),
        sa.Column("drift", sa.JSON, nullable=False, server_default="[]"),
        sa.Column("drift_since", TIME),
        _maybe_text("error_code"),
        sa.PrimaryKeyConstraint("account", name="pk_connections"),
        if_not_exists=True,
    )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _maybe_text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text)


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, TIME, nullable=False, server_default=sa.func.now())
