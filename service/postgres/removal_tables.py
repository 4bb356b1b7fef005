"""The tables of removal: receipts, documents of removed e-mails that targets still have, and objects to remove."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, JSON, BigInteger, ForeignKey, Identity, Index, Integer, Text, func
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base, one_of

RECEIPT_KINDS = ("purge", "erasure")
RECEIPT_STATUSES = ("running", "done")
# waiting: to be removed once no older transaction runs. removing: being removed now. removed: gone from the storage.
# locked: the storage refuses the removal.
OBJECT_STATES = ("waiting", "removing", "removed", "locked")
# Predicates of partial indexes.
RUNNING_PURGE = "kind = 'purge' AND status = 'running'"
TARGET_DUE = "target_due_at IS NOT NULL AND target_done_at IS NULL"
TO_REMOVE = "state <> 'removed'"
KNOWN_COMMENT = "comment_id IS NOT NULL"


class Receipt(Base):
    """The lasting record of one purge run or one erasure: its removals, in numbers, and a hash of the list."""

    __tablename__ = "receipts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="running")
    actor: Mapped[str]
    reason: Mapped[str | None]  # of an erasure
    rules: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))  # of a purge: e-mails by rule
    begun_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    emails: Mapped[int] = mapped_column(BigInteger, server_default="0")
    files: Mapped[int] = mapped_column(BigInteger, server_default="0")
    bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    held: Mapped[int] = mapped_column(BigInteger, server_default="0")  # e-mails left out because of a hold
    objects: Mapped[int] = mapped_column(
        BigInteger, server_default="0"
    )  # that its e-mails named; counted at its end
    objects_removed: Mapped[int] = mapped_column(BigInteger, server_default="0")
    digest: Mapped[str | None]  # the SHA-256 of the sorted list of removals, see `custody/receipts`
    # A purge: the last e-mail that it looked at, and the lease of the process that runs it.
    place: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_until: Mapped[datetime] = mapped_column(server_default=func.now())
    lease_number: Mapped[int] = mapped_column(Integer, server_default="0")  # the fencing token

    __table_args__ = (
        one_of("kind", RECEIPT_KINDS),
        one_of("status", RECEIPT_STATUSES),
        Index("uq_receipts_running_purge", "kind", unique=True, postgresql_where=sql(RUNNING_PURGE)),
    )


class ReceiptEntry(Base):
    """A document key or a content hash of a receipt; deleted once the receipt has its digest."""

    __tablename__ = "receipt_entries"

    receipt_id: Mapped[int] = mapped_column(ForeignKey("receipts.id"), primary_key=True)
    entry: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)


class RemovedEmail(Base):
    """An e-mail that was removed: its old id, and the document that has to be replaced in the targets.

    Its comment's identity is kept after a purge alone, so that no search of Zendesk brings the e-mail back. An erasure
    keeps hashes instead.
    """

    __tablename__ = "removed_emails"

    email_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    receipt_id: Mapped[int] = mapped_column(ForeignKey("receipts.id"))
    removed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    document_key: Mapped[str]
    version: Mapped[int] = mapped_column(Integer)  # higher than that of any document of the e-mail
    account_id: Mapped[str | None]
    ticket_id: Mapped[str | None]
    comment_id: Mapped[str | None]
    # When the targets are told; null where they never had a document of it.
    target_due_at: Mapped[datetime | None]
    target_done_at: Mapped[datetime | None]
    target_attempts: Mapped[int] = mapped_column(Integer, server_default="0")  # the fencing token
    target_retries: Mapped[int] = mapped_column(Integer, server_default="0")
    target_error_code: Mapped[str | None]
    target_error: Mapped[str | None]

    __table_args__ = (
        Index("ix_removed_emails_receipt", "receipt_id"),
        Index("ix_removed_emails_key", "document_key"),
        Index("ix_removed_emails_due", "target_due_at", postgresql_where=sql(TARGET_DUE)),
        Index(
            "ix_removed_emails_comment",
            "ticket_id",
            "comment_id",
            postgresql_where=sql(KNOWN_COMMENT),
        ),
    )


class ObjectToRemove(Base):
    """An object that a removed e-mail named; see `custody/objects` for the protocol."""

    __tablename__ = "objects_to_remove"

    key: Mapped[str] = mapped_column(primary_key=True)
    # Null for an object of an attempt that lost its claim: no row ever named it.
    receipt_id: Mapped[int | None] = mapped_column(ForeignKey("receipts.id"))
    requested_at: Mapped[datetime] = mapped_column(server_default=func.now())
    number: Mapped[int] = mapped_column(BigInteger, Identity())  # a new one for each request
    state: Mapped[str] = mapped_column(server_default="waiting")
    # The transactions that ran when the remover first saw the row: they may name the object without knowing of it.
    barrier: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    due_at: Mapped[datetime] = mapped_column(
        server_default=func.now()
    )  # while `removing`: the end of the lease
    removed_at: Mapped[datetime | None]
    reason: Mapped[str | None]  # why the storage did not remove it

    __table_args__ = (
        one_of("state", OBJECT_STATES),
        Index("ix_objects_to_remove_due", "due_at", postgresql_where=sql(TO_REMOVE)),
        Index("ix_objects_to_remove_removed", "removed_at", postgresql_where=sql("state = 'removed'")),
        Index("ix_objects_to_remove_receipt", "receipt_id", "state"),
    )


class LooseObject(Base):
    """An object that may have no name: it is about to be put, or rows forgot it. See `jobs/loose_objects`."""

    __tablename__ = "loose_objects"

    number: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    key: Mapped[str]
    # The e-mail whose attempt puts it. Null for a suspended e-mail, and for what rows forgot.
    email_id: Mapped[int | None] = mapped_column(BigInteger)
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when its removal is requested

    __table_args__ = (
        Index("ix_loose_objects_due", "due_at"),
        Index("ix_loose_objects_email", "email_id"),
    )
