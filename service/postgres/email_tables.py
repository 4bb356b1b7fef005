"""The tables of e-mails: jobs and syncs, attachments, attempts, and webhooks that made no e-mail."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    cast,
    false,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

STATUSES = ("received", "queued", "processing", "completed", "failed")
SYNC_STATUSES = ("not_applicable", "pending", "synced", "failed")
ATTACHMENT_STATUSES = ("pending", "stored", "failed")
# Also the predicates of partial indexes.
RECEIVED = "processing_status = 'received'"
WAITING = "processing_status IN ('received', 'queued')"
PROCESSING = "processing_status = 'processing'"
FAILED = "processing_status = 'failed'"
# Suspects: their last attempts were abandoned, and each of them may end workers.
SUSPECT = "processing_status = 'queued' AND abandoned_count > 0"
FINISHED = "processing_status IN ('completed', 'failed')"
TO_SYNC = f"sync_status = 'pending' AND {FINISHED}"
NOT_SYNCED = "sync_status = 'failed'"
SIGNED = "signature_hash IS NOT NULL"  # false in rows that are older than the column
# Finished and neither synced nor pending: the sync failed, or there was no target at the end of the job.
UNSYNCED = f"sync_status IN ('not_applicable', 'failed') AND {FINISHED}"
NEVER_SYNCED = f"sync_status = 'not_applicable' AND {FINISHED}"
# Another system wrote the row, and its list has no attachments yet. Each webhook of ours has a body.
UNREAD = "raw_body IS NULL AND reading_hash IS NULL AND attachment_urls IS NOT NULL"
# It names a comment, and may be one of several rows of it: `jobs/identity` has not looked at it.
UNIDENTIFIED = "comment_id <> '' AND NOT identified"
# The code of files that another system knew and storage lacks, and of finished e-mails with such files.
NOT_CAPTURED = "not_captured"
# A dismissal names the ends that a person saw, by their numbers. Each end has its own number, so whatever fails later
# is not dismissed, whichever process wrote it.
DISMISSED = (
    f"dismissed_attempt = attempt_number AND {FINISHED}"
    f" AND (processing_status = 'failed' OR sync_status = 'failed' OR error_code = '{NOT_CAPTURED}')"
    " AND (sync_status <> 'failed' OR dismissed_sync_attempt = sync_attempt_number)"
)
# A new version of a finished e-mail's document, without an attempt: what was dismissed stays dismissed.
REVISED = (
    "attempt_number = attempt_number + 1,"
    " dismissed_attempt = dismissed_attempt + CASE WHEN dismissed_attempt = attempt_number THEN 1 ELSE 0 END"
)
NOT_DISMISSED = f"({DISMISSED}) IS NOT TRUE"
# Each of these needs attention.
OPEN_FAILED = f"{FAILED} AND {NOT_DISMISSED}"
OPEN_NOT_SYNCED = f"{NOT_SYNCED} AND {NOT_DISMISSED}"
OPEN_NOT_CAPTURED = f"error_code = '{NOT_CAPTURED}' AND processing_status = 'completed' AND {NOT_DISMISSED}"
NOT_REPLAYED = "replayed_at IS NULL"
IN_QUARANTINE = f"{NOT_REPLAYED} AND dismissed_at IS NULL"
DISMISSED_WEBHOOK = f"{NOT_REPLAYED} AND dismissed_at IS NOT NULL"
ACCEPTED = "error_code IS NULL"  # of a correction
# An e-mail that no webhook announced first: the look-up of its ticket found it, or the back-fill.
UNANNOUNCED = "origin <> 'webhook'"
CHANGED_IN_ZENDESK = "zendesk_state IS NOT NULL"
DELETED_IN_ZENDESK = "zendesk_state = 'deleted'"
BACK_FILLED = f"origin = 'backfill' AND {WAITING}"
OUTCOMES = ("completed", "released", "failed", "handed_back", "abandoned")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True), str: Text, Any: JSON}


def one_of(column: str, words: tuple[str, ...], name: str = "") -> CheckConstraint:
    """Make the CHECK of a column that holds one of some words; the naming convention prefixes its name."""
    return CheckConstraint(f"{column} IN ({', '.join(map(repr, words))})", name=name or column)


class IncomingEmail(Base):
    """An e-mail, its job and its sync: one row for each invocation.

    Only the package `jobs` writes the columns of the job and of the sync; the end of a job begins the sync.
    """

    __tablename__ = "incoming_emails"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    zendesk_ticket_id: Mapped[str]  # text: a template may send anything, and 26 digits fit no integer
    from_email: Mapped[str | None]
    from_name: Mapped[str | None]
    subject: Mapped[str | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    idempotency_key: Mapped[str] = mapped_column(unique=True, server_default=text("gen_random_uuid()::text"))

    # The sync, a second state machine: `pending` from the start, and due once the job has ended.
    sync_status: Mapped[str] = mapped_column(server_default="not_applicable")
    sync_error: Mapped[str | None]
    sync_error_code: Mapped[str | None]
    sync_retry_count: Mapped[int] = mapped_column(Integer, server_default="0")
    sync_attempt_number: Mapped[int] = mapped_column(Integer, server_default="0")  # the fencing token
    sync_unsettled: Mapped[int] = mapped_column(
        Integer, server_default="0"
    )  # attempts without a recorded end
    sync_due_at: Mapped[datetime] = mapped_column(
        server_default=func.now()
    )  # during an attempt: the end of its lease
    sync_begun_at: Mapped[datetime] = mapped_column(
        server_default=func.now()
    )  # the start of its waiting time
    synced_at: Mapped[datetime | None]

    # The request as received.
    attachment_urls: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    raw_body: Mapped[bytes | None] = mapped_column(LargeBinary)
    raw_headers: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    account_id: Mapped[str | None]
    invocation_id: Mapped[str | None]
    comment_id: Mapped[str | None]
    looked_up_at: Mapped[datetime | None]  # when Zendesk's API listed its files
    sent_at: Mapped[datetime | None]  # the e-mail's own date, if the payload has one
    late: Mapped[bool] = mapped_column(server_default=false())  # signed outside the tolerated time
    signature_hash: Mapped[bytes | None] = mapped_column(LargeBinary)  # equal for repetitions of a request
    # The hash of the parser's result for the body; of `attachment_urls` if another system wrote the row.
    reading_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    reread: Mapped[bool] = mapped_column(server_default=false())  # the next attempt parses the body again
    # No other row has its account, ticket and comment: it is the e-mail of that comment.
    identified: Mapped[bool] = mapped_column(server_default=false())

    origin: Mapped[str] = mapped_column(
        server_default="webhook"
    )  # webhook, lookup, backfill: the origin of the row
    # What Zendesk did with it since: deleted, redacted, private, merged. Our copy stays as it was.
    zendesk_state: Mapped[str | None]
    zendesk_state_at: Mapped[datetime | None]

    # The job.
    processing_status: Mapped[str] = mapped_column(server_default="received")
    processing_error: Mapped[str | None]
    error_code: Mapped[str | None]
    error_host: Mapped[str | None]  # the host of the file that failed
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    retry_count: Mapped[int] = mapped_column(Integer, server_default="0")
    attempt_number: Mapped[int] = mapped_column(Integer, server_default="0")
    abandoned_count: Mapped[int] = mapped_column(Integer, server_default="0")  # abandoned attempts in a row
    due_at: Mapped[datetime] = mapped_column(
        server_default=func.now()
    )  # when the sweep enqueues it, for the first time or again
    # The start of its wait for an attempt, or the end of its pause; null in rows that are older than the
    # column.
    queued_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    lease_until: Mapped[datetime | None]
    # Files were announced during an attempt, which may not have seen them: another one follows.
    has_news: Mapped[bool] = mapped_column(server_default=false())

    # The newest dismissal, in force while DISMISSED holds: by whom, why, and of which attempts of job and sync.
    dismissed_at: Mapped[datetime | None]
    dismissed_by: Mapped[str | None]
    dismiss_reason: Mapped[str | None]
    dismissed_attempt: Mapped[int | None] = mapped_column(Integer)
    dismissed_sync_attempt: Mapped[int | None] = mapped_column(Integer)  # null if the sync had not failed

    __table_args__ = (
        one_of("processing_status", STATUSES),
        one_of("sync_status", SYNC_STATUSES),
        Index("ix_incoming_emails_sync_due", "sync_due_at", postgresql_where=text(TO_SYNC)),
        Index(
            "ix_incoming_emails_failed_syncs",
            "id",
            # Failed syncs of jobs in one state are counted in the index alone.
            postgresql_include=["processing_status", "sync_status"],
            postgresql_where=text(NOT_SYNCED),
        ),
        Index("ix_incoming_emails_sync_error", "sync_error_code", "id", postgresql_where=text(NOT_SYNCED)),
        Index(
            "ix_incoming_emails_failed_twice",
            "error_code",
            "id",
            postgresql_where=text(f"{NOT_SYNCED} AND error_code IS NOT NULL"),
        ),
        Index("ix_incoming_emails_unsynced", "id", postgresql_where=text(UNSYNCED)),
        Index("ix_incoming_emails_unread", "id", postgresql_where=text(UNREAD)),
        Index("ix_incoming_emails_status_received", "processing_status", "received_at"),
        Index("ix_incoming_emails_due", "due_at", postgresql_where=text(WAITING)),
        Index("ix_incoming_emails_received_due", "due_at", postgresql_where=text(RECEIVED)),
        Index("ix_incoming_emails_suspect_due", "due_at", postgresql_where=text(SUSPECT)),
        Index("ix_incoming_emails_lease", "lease_until", postgresql_where=text(PROCESSING)),
        Index("ix_incoming_emails_ticket", "zendesk_ticket_id", "id"),
        Index(
            "uq_incoming_emails_signature_hash", "signature_hash", unique=True, postgresql_where=text(SIGNED)
        ),
        Index(
            "uq_incoming_emails_comment",
            text("coalesce(account_id, '')"),
            "zendesk_ticket_id",
            "comment_id",
            unique=True,
            postgresql_where=text("identified"),
        ),
        Index("ix_incoming_emails_unannounced", "id", postgresql_where=text(UNANNOUNCED)),
        Index("ix_incoming_emails_back_filled", "id", postgresql_where=text(BACK_FILLED)),
        Index("ix_incoming_emails_deleted", "zendesk_ticket_id", postgresql_where=text(DELETED_IN_ZENDESK)),
        Index("ix_incoming_emails_zendesk_state", "id", postgresql_where=text(CHANGED_IN_ZENDESK)),
        Index("ix_incoming_emails_unidentified", "id", postgresql_where=text(UNIDENTIFIED)),
        # An index cannot hold longer values; longer senders cannot be searched for.
        Index("ix_incoming_emails_sender", text("left(lower(from_email), 400)"), "id"),
        Index(
            "ix_incoming_emails_error", "error_code", "id", postgresql_where=text("error_code IS NOT NULL")
        ),
        Index(
            "ix_incoming_emails_failures",
            text("coalesce(error_code, '')"),
            text("coalesce(error_host, '')"),
            "received_at",
            "id",
            # Without the columns themselves, Postgres reads the rows for values that the index has.
            postgresql_include=["error_code", "error_host"],
            postgresql_where=text(FAILED),
        ),
        Index(
            "ix_incoming_emails_open_failures",
            text("coalesce(error_code, '')"),
            text("coalesce(error_host, '')"),
            "received_at",
            "id",
            # Without the columns themselves, Postgres reads the rows for values that the index has.
            postgresql_include=["error_code", "error_host"],
            postgresql_where=text(OPEN_FAILED),
        ),
        Index("ix_incoming_emails_open_not_synced", "id", postgresql_where=text(OPEN_NOT_SYNCED)),
        Index("ix_incoming_emails_open_not_captured", "id", postgresql_where=text(OPEN_NOT_CAPTURED)),
        Index("ix_incoming_emails_dismissed", "id", postgresql_where=text(DISMISSED)),
    )


def is_listed() -> ColumnElement[bool]:
    """Match e-mails whose files are listed; other systems write JSON's null for an unknown list."""
    return func.coalesce(cast(IncomingEmail.attachment_urls, Text), "null") != "null"


def key_of_email() -> ColumnElement[str]:
    """Return an e-mail's key; for a row of another system without one, the key that `holdfast takeover` will fill in."""
    stand_in = func.concat("holdfast:email:", IncomingEmail.id)
    return func.coalesce(IncomingEmail.idempotency_key, stand_in)


def in_status(status: str) -> ColumnElement[bool]:
    """Match a status that Postgres learns when it runs the plan, not when it makes the plan.

    A plan for a known status relies on old statistics: of ten million rows, a million change before new ones
    are taken. During a burst, Postgres would then read all rows of the status to return one page.
    """
    return IncomingEmail.processing_status == select(literal(status)).scalar_subquery()


class Attachment(Base):
    """A file of an e-mail, with a status of its own: one bad file does not fail the others."""

    __tablename__ = "attachments"

    email_id: Mapped[int] = mapped_column(ForeignKey("incoming_emails.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    source_url: Mapped[str]
    file_name: Mapped[str | None]
    declared_type: Mapped[str | None]
    declared_size: Mapped[int | None] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(server_default="pending")
    sha256: Mapped[str | None]
    size: Mapped[int | None] = mapped_column(BigInteger)
    detected_type: Mapped[str | None]
    object_key: Mapped[str | None]
    stored_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error: Mapped[str | None]
    zendesk_id: Mapped[str | None]  # the attachment's id in Zendesk
    inline: Mapped[bool | None]  # an image in the text
    malware: Mapped[str | None]  # Zendesk's verdict, as it names it: malware_found, not_scanned

    __table_args__ = (
        one_of("status", ATTACHMENT_STATUSES, "ck_attachments_status"),  # its migration adds the prefix twice
        Index("ix_attachments_sha256", "sha256", "email_id", postgresql_where=text("sha256 IS NOT NULL")),
    )


class Attempt(Base):
    """One run of a job: a row for each claim. Without an outcome it is still running."""

    __tablename__ = "attempts"

    email_id: Mapped[int] = mapped_column(ForeignKey("incoming_emails.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    worker: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error_code: Mapped[str | None]
    error: Mapped[str | None]

    __table_args__ = (
        one_of("outcome", OUTCOMES, "ck_attempts_outcome"),
    )  # its migration adds the prefix twice


class QuarantinedWebhook(Base):
    """A signed request with an unreadable body, kept byte for byte for a replay after a fix."""

    __tablename__ = "quarantined_webhooks"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    account_id: Mapped[str | None]
    invocation_id: Mapped[str | None]
    raw_body: Mapped[bytes] = mapped_column(LargeBinary)
    raw_headers: Mapped[Any] = mapped_column(JSON)
    error_code: Mapped[str]
    error: Mapped[str]
    replayed_at: Mapped[datetime | None]
    email_id: Mapped[int | None] = mapped_column(BigInteger)  # the e-mail that the replay created or found
    late: Mapped[bool] = mapped_column(server_default=false())
    signature_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    dismissed_at: Mapped[datetime | None]
    dismissed_by: Mapped[str | None]
    dismiss_reason: Mapped[str | None]
    reused_key: Mapped[str | None]  # the key that it shares with an e-mail of another body

    __table_args__ = (
        Index(
            "uq_quarantined_webhooks_signature_hash",
            "signature_hash",
            unique=True,
            postgresql_where=text(SIGNED),
        ),
        Index("ix_quarantined_webhooks_waiting", "id", postgresql_where=text(NOT_REPLAYED)),
        Index("ix_quarantined_webhooks_open", "id", postgresql_where=text(IN_QUARANTINE)),
        Index("ix_quarantined_webhooks_dismissed", "id", postgresql_where=text(DISMISSED_WEBHOOK)),
        Index("ix_quarantined_webhooks_replayed", "id", postgresql_where=text("replayed_at IS NOT NULL")),
        Index("ix_quarantined_webhooks_email", "email_id", postgresql_where=text("email_id IS NOT NULL")),
        Index(
            "ix_quarantined_webhooks_reused_key",
            "reused_key",
            postgresql_where=text("reused_key IS NOT NULL"),
        ),
    )


class QuarantineCorrection(Base):
    """A body that a person corrected, kept byte for byte beside the original in quarantine.

    One at most is accepted. Postgres refused the others, and `error_code` says why.
    """

    __tablename__ = "quarantine_corrections"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    quarantine_id: Mapped[int] = mapped_column(ForeignKey("quarantined_webhooks.id", ondelete="CASCADE"))
    corrected_at: Mapped[datetime] = mapped_column(server_default=func.now())
    corrected_by: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    error_code: Mapped[str | None]

    __table_args__ = (
        Index(
            "uq_quarantine_corrections_accepted",
            "quarantine_id",
            unique=True,
            postgresql_where=text(ACCEPTED),
        ),
        Index("ix_quarantine_corrections_webhook", "quarantine_id", "id"),
    )


class IgnoredWebhook(Base):
    """A signed event of an unused type, kept byte for byte for a later replay."""

    __tablename__ = "ignored_webhooks"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    idempotency_key: Mapped[str] = mapped_column(
        unique=True
    )  # of the body: two different events never share it
    signature_hash: Mapped[bytes | None] = mapped_column(LargeBinary)  # for the e-mail of a replay
    event_type: Mapped[str]
    account_id: Mapped[str | None]
    invocation_id: Mapped[str | None]
    raw_body: Mapped[bytes] = mapped_column(LargeBinary)
    raw_headers: Mapped[Any] = mapped_column(JSON)
    late: Mapped[bool] = mapped_column(server_default=false())
    replayed_at: Mapped[datetime | None]
    email_id: Mapped[int | None] = mapped_column(BigInteger)  # the e-mail that the replay created or found

    __table_args__ = (
        Index("ix_ignored_webhooks_email", "email_id", postgresql_where=text("email_id IS NOT NULL")),
    )
