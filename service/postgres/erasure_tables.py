"""The tables of erasures: their scope and progress, and the tombstones that recognise erased content."""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base, one_of

# `restored` is all that the imported tombstones of another copy of the database recognise.
SCOPES = ("sender", "ticket", "email", "file", "zendesk", "restored")
ERASURE_STATUSES = ("running", "done")
# What is erased, in this order. `wait` is for transactions that began before the tombstones were there, and `late` looks
# for what they wrote.
ERASURE_PHASES = ("emails", "quarantined", "ignored", "traces", "wait", "late", "receipt")
# The predicate of a partial index.
RUNNING_ERASURE = "status = 'running'"


class ErasureSalt(Base):
    """The random salt of all tombstones: one row, made by the first erasure."""

    __tablename__ = "erasure_salts"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    salt: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("id = 1", name="one"),)


class Tombstone(Base):
    """A salted hash that recognises something erased, see `postgres/tombstones`."""

    __tablename__ = "tombstones"

    hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    # The comments of a ticket are erased that were made until then; null where the hash alone decides.
    until: Mapped[datetime | None]
    made_at: Mapped[datetime] = mapped_column(server_default=func.now())
    receipt_id: Mapped[int | None] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_tombstones_receipt", "receipt_id"),)


class Erasure(Base):
    """An erasure, for any worker to continue. At its end, the row no longer names the subject."""

    __tablename__ = "erasures"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    receipt_id: Mapped[int] = mapped_column(BigInteger)
    begun_at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    scope: Mapped[str]
    subject: Mapped[str | None]  # the address, ticket, e-mail or hash; null when it is done
    status: Mapped[str] = mapped_column(server_default="running")
    phase: Mapped[str] = mapped_column(server_default="emails")
    # Rows above these arrived later: a new e-mail of the same sender is no part of the erasure.
    last_email: Mapped[int] = mapped_column(BigInteger)
    last_quarantined: Mapped[int] = mapped_column(BigInteger)
    last_ignored: Mapped[int] = mapped_column(BigInteger)
    webhooks: Mapped[int] = mapped_column(BigInteger, server_default="0")  # of quarantine, and ignored ones
    suspended: Mapped[int] = mapped_column(BigInteger, server_default="0")
    place: Mapped[int] = mapped_column(BigInteger, server_default="0")  # where the phase goes on
    # The comments of the erased e-mails; null when it is done.
    comments: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    transactions: Mapped[list[str] | None] = mapped_column(ARRAY(Text))  # those to wait for
    held_by: Mapped[list[str] | None] = mapped_column(ARRAY(Text))  # holds that were set since it began
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # the time of the next step
    ended_at: Mapped[datetime | None]
    # Why Postgres refused the last step; null if it did not.
    error_code: Mapped[str | None]
    error: Mapped[str | None]

    __table_args__ = (
        one_of("scope", SCOPES),
        one_of("status", ERASURE_STATUSES),
        one_of("phase", ERASURE_PHASES),
        Index("ix_erasures_running", "next_at", postgresql_where=text(RUNNING_ERASURE)),
    )
