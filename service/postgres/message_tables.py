"""The tables of messages: the contents of an e-mail, its announcements, the facts of its ticket, and the words to find it by."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Identity, Index, Integer, LargeBinary, false, func
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import SIGNED, Base, one_of

DIRECTIONS = ("inbound", "outbound")
ORIGINALS = ("stored", "not_available")
# Tickets whose subject is still to be asked for.
NO_SUBJECT = "subject_at IS NULL"


class Message(Base):
    """What an e-mail says: its comment in Zendesk, as the API told it. Its object `record` is the comment's JSON."""

    __tablename__ = "messages"

    email_id: Mapped[int] = mapped_column(ForeignKey("incoming_emails.id"), primary_key=True)
    comment_id: Mapped[str]
    audit_id: Mapped[str | None]
    channel: Mapped[str | None]  # as Zendesk names it: email, web, api
    direction: Mapped[str]
    public: Mapped[bool | None]
    subject: Mapped[str | None]  # of the ticket: Zendesk keeps no subject of a reply
    from_address: Mapped[str | None]
    from_name: Mapped[str | None]
    to: Mapped[Any] = mapped_column(JSON)  # a list of {"name", "address"}
    cc: Mapped[Any] = mapped_column(JSON)
    message_id: Mapped[str | None]
    sent_at: Mapped[datetime | None]  # the date of the original, or else when the comment was made
    created_at: Mapped[datetime | None]  # when the comment was made
    text: Mapped[str]  # the first TEXT_BYTES
    text_size: Mapped[int] = mapped_column(BigInteger)  # bytes of the whole text in UTF-8
    has_html: Mapped[bool]
    record_sha256: Mapped[str]
    record_key: Mapped[str]
    record_size: Mapped[int] = mapped_column(BigInteger)
    original: Mapped[str | None]  # null until Zendesk gave it, or an answer that says that there is none
    original_sha256: Mapped[str | None]
    original_key: Mapped[str | None]
    original_size: Mapped[int | None] = mapped_column(BigInteger)
    original_error_code: Mapped[str | None]  # why it is not available
    original_due_at: Mapped[datetime | None]  # when it is asked for again, while nothing is known of it
    original_tries: Mapped[int] = mapped_column(Integer, server_default="0")  # since the last attempt
    fetched_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        one_of("direction", DIRECTIONS),
        one_of("original", ORIGINALS),
        Index("ix_messages_record_sha256", "record_sha256"),
        # An index cannot hold longer values.
        Index("ix_messages_sender", sql("left(lower(from_address), 400)"), "email_id"),
        Index(
            "ix_messages_original_sha256",
            "original_sha256",
            postgresql_where=sql("original_sha256 IS NOT NULL"),
        ),
        Index(
            "ix_messages_original_due",
            "original_due_at",
            postgresql_where=sql("original IS NULL AND original_due_at IS NOT NULL"),
        ),
    )


class Announcement(Base):
    """A further signed request about an e-mail, byte for byte. The first one is in the e-mail's own row."""

    __tablename__ = "announcements"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    email_id: Mapped[int] = mapped_column(ForeignKey("incoming_emails.id"))
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    signature_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    account_id: Mapped[str | None]
    invocation_id: Mapped[str | None]
    raw_body: Mapped[bytes] = mapped_column(LargeBinary)
    raw_headers: Mapped[Any] = mapped_column(JSON)
    late: Mapped[bool] = mapped_column(server_default=false())

    __table_args__ = (
        Index("ix_announcements_email", "email_id", "id"),
        Index("uq_announcements_signature_hash", "signature_hash", unique=True, postgresql_where=sql(SIGNED)),
    )


class MergedEmail(Base):
    """An e-mail that turned out to be another one, and became part of it: the id that people may still have."""

    __tablename__ = "merged_emails"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    email_id: Mapped[int] = mapped_column(ForeignKey("incoming_emails.id"))
    idempotency_key: Mapped[str]  # the key of its document in the targets
    merged_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # The version of the document that replaces its own in the targets; null where they have none of its own.
    version: Mapped[int | None] = mapped_column(Integer)
    synced_at: Mapped[datetime | None]  # when the targets had that document
    other_columns: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))  # of a previous system's table

    __table_args__ = (
        Index("ix_merged_emails_email", "email_id"),
        Index("ix_merged_emails_key", "idempotency_key"),
    )


class Ticket(Base):
    """What several e-mails of a ticket share: its subject and recipient, and the look-up that one worker makes for all."""

    __tablename__ = "tickets"

    account_id: Mapped[str] = mapped_column(primary_key=True)  # "" where no webhook named the account
    ticket_id: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str | None]
    recipient: Mapped[str | None]  # the address that the first e-mail was sent to
    subject_at: Mapped[datetime | None]  # when the subject was asked for or announced
    # When it was looked up or asked for; in the future while a worker asks for its subject.
    asked_at: Mapped[datetime] = mapped_column(server_default=func.now())
    looking_until: Mapped[datetime | None]  # the end of the lease of the worker that looks it up now

    __table_args__ = (Index("ix_tickets_no_subject", "asked_at", postgresql_where=sql(NO_SUBJECT)),)


class ApiBudget(Base):
    """The calls of one minute to an account's API, by all workers; one row per account.

    Zendesk's own minute is another one: it ends at `resets_at`.
    """

    __tablename__ = "api_budgets"

    account: Mapped[str] = mapped_column(primary_key=True)  # the host of the account
    window_ends_at: Mapped[datetime] = mapped_column(server_default=func.now())
    used: Mapped[int] = mapped_column(Integer, server_default="0")
    calls_per_minute: Mapped[int | None] = mapped_column(Integer)  # the account's limit, from its header
    no_originals_at: Mapped[datetime | None]  # when it last refused the original of an e-mail
    subjects_at: Mapped[datetime | None]  # when the next call for subjects of tickets is due
    # What Zendesk's latest answer said is left, less the calls that were granted since.
    calls_left: Mapped[int | None] = mapped_column(Integer)
    resets_at: Mapped[datetime | None]
    # While calls are spread: when the next one may be made, and when the next caller that was put off asks again.
    next_call_at: Mapped[datetime | None]
    next_retry_at: Mapped[datetime | None]
    paced_since: Mapped[datetime | None]  # since when minute after minute had too few calls


class EmailWords(Base):
    """The words by which an e-mail is found; see `postgres/words`."""

    __tablename__ = "email_words"

    email_id: Mapped[int] = mapped_column(ForeignKey("incoming_emails.id"), primary_key=True)
    words: Mapped[Any] = mapped_column(TSVECTOR)

    __table_args__ = (
        Index("ix_email_words_words", "words", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
    )
