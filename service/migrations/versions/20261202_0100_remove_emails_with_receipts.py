"""Remove e-mails: receipts, documents that targets still have, and objects that nobody names any more."""

import sqlalchemy as sa
from alembic import op

revision = "20261202_0100"
down_revision = "20261201_0400"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_receipts()
    _create_receipt_entries()
    _create_removed_emails()
    _create_objects_to_remove()


def downgrade() -> None:
    for table in ("objects_to_remove", "removed_emails", "receipt_entries", "receipts"):
        op.drop_table(table, if_exists=True)


def _create_receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="running"),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("rules", sa.JSON),
        _now("begun_at"),
        sa.Column("ended_at", TIME),
        *map(_count, ("emails", "files", "bytes", "held", "objects", "objects_removed")),
        sa.Column("digest", sa.Text),
        _count("place"),
        _now("lease_until"),
        sa.Column("lease_number", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("id", name="pk_receipts"),
        sa.CheckConstraint("kind IN ('purge', 'erasure')", name="kind"),
        sa.CheckConstraint("status IN ('running', 'done')", name="status"),
        if_not_exists=True,
    )


def _create_receipt_entries() -> None:
    op.create_table(
        "receipt_entries",
        sa.Column("receipt_id", sa.BigInteger, nullable=False),
        sa.Column("entry", sa.Text(collation="C"), nullable=False),
        sa.PrimaryKeyConstraint("receipt_id", "entry", name="pk_receipt_entries"),
        _of_receipt("receipt_entries"),
        if_not_exists=True,
    )


def _create_removed_emails() -> None:
    op.create_table(
        "removed_emails",
        sa.Column("email_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("receipt_id", sa.BigInteger, nullable=False),
        _now("removed_at"),
        sa.Column("document_key", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("account_id", "ticket_id", "comment_id")),
        *(sa.Column(name, TIME) for name in ("target_due_at", "target_done_at")),
        *(
            sa.Column(name, sa.Integer, nullable=False, server_default="0")
            for name in ("target_attempts", "target_retries")
        ),
        *(sa.Column(name, sa.Text) for name in ("target_error_code", "target_error")),
        sa.PrimaryKeyConstraint("email_id", name="pk_removed_emails"),
        _of_receipt("removed_emails"),
        if_not_exists=True,
    )


def _create_objects_to_remove() -> None:
    op.create_table(
        "objects_to_remove",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("receipt_id", sa.BigInteger),
        _now("requested_at"),
        sa.Column("number", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
        sa.Column("barrier", sa.ARRAY(sa.Text)),
        _now("due_at"),
        sa.Column("removed_at", TIME),
        sa.Column("reason", sa.Text),
        sa.PrimaryKeyConstraint("key", name="pk_objects_to_remove"),
        _of_receipt("objects_to_remove"),
        sa.CheckConstraint("state IN ('waiting', 'removing', 'removed', 'locked')", name="state"),
        if_not_exists=True,
    )


def _of_receipt(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["receipt_id"], ["receipts.id"], name=f"fk_{table}_receipt_id")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, TIME, nullable=False, server_default=sa.func.now())
