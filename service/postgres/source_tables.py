"""The tables of Zendesk's own lists: how far it was searched, the e-mails found there, and suspended ones."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
    false,
    func,
)
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base, one_of

LEGS = ("events", "lists")
BACKFILL_KINDS = ("current", "history")
# Zendesk's export hides the last minute, and refuses a younger start.
HIDDEN_SECONDS = 61
# An e-mail whose webhook was lost: its comment was made at least ten minutes ago, and after the first webhook or, without
# one among the oldest e-mails, after the account was first searched. No request about it came.
LOST = """
    origin <> 'webhook' AND raw_body IS NULL AND sent_at <= now() - interval '10 minutes'
    AND sent_at > coalesce(
        least(
            (
                SELECT min(received_at) FILTER (WHERE origin = 'webhook')
                FROM (SELECT received_at, origin FROM incoming_emails ORDER BY id LIMIT 1000) AS oldest
            ),
            (SELECT received_at FROM announcements ORDER BY id LIMIT 1)
        ),
        (SELECT min(began_at) FROM sources)
    )
    AND NOT EXISTS (SELECT FROM announcements WHERE email_id = incoming_emails.id)
"""
# Runs that are not finished.
OPEN_BACKFILL = "finished_at IS NULL"


class Source(Base):
    """One Zendesk account: since when and until when its e-mails are known to be on record, one row per account."""

    __tablename__ = "sources"

    account: Mapped[str] = mapped_column(primary_key=True)  # the host of the account, as in `api_budgets`
    account_id: Mapped[str | None]  # the account's number, which only Zendesk's requests tell
    account_is_told: Mapped[bool] = mapped_column(
        server_default=false()
    )  # by a webhook; else a comment named it
    began_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # All e-mails of comments made between these two are on record; null before the first run has ended.
    complete_since: Mapped[datetime | None]
    watermark: Mapped[datetime | None]
    # The end of a second of which a search found only a part; completeness begins there if it is `complete_since`.
    left_out: Mapped[datetime | None]
    checked_at: Mapped[datetime | None]  # the end of the latest current run that found all
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())  # the next current run
    leg: Mapped[str] = mapped_column(server_default="events")
    leg_since: Mapped[datetime] = mapped_column(server_default=func.now())
    leg_reason: Mapped[str | None]  # the code of the error for which the leg was left
    error_code: Mapped[str | None]  # of the latest step; null after one that succeeded
    error: Mapped[str | None]
    failed_at: Mapped[datetime | None]  # the first failure in a row
    lease_until: Mapped[datetime | None]
    lease_number: Mapped[int] = mapped_column(Integer, server_default="0")  # the fencing token
    suspended_at: Mapped[datetime | None]  # when suspended e-mails were read
    proof_day: Mapped[datetime | None]  # the latest day that was counted again
    proof: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))  # what that count said

    __table_args__ = (one_of("leg", LEGS),)


class Backfill(Base):
    """One search of a range of time: the current one of an account, or one of its history that a person started."""

    __tablename__ = "backfills"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    account: Mapped[str] = mapped_column(ForeignKey("sources.account"))
    kind: Mapped[str]
    since: Mapped[datetime]
    until: Mapped[datetime | None]  # null: until now
    dry_run: Mapped[bool] = mapped_column(server_default=false())
    actor: Mapped[str | None]
    leg: Mapped[str]
    position: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))  # where the leg continues
    reached: Mapped[datetime | None]  # all before it is found (events), or will be at the end (lists)
    listed_since: Mapped[
        datetime | None
    ]  # since when the list was read instead of the export; null: all the time
    left_out: Mapped[datetime | None]  # the end of the latest second of which it found only a part
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    found: Mapped[int] = mapped_column(BigInteger, server_default="0")  # e-mails that Zendesk lists
    added: Mapped[int] = mapped_column(
        BigInteger, server_default="0"
    )  # of these, those that were not on record
    calls: Mapped[int] = mapped_column(BigInteger, server_default="0")
    error_code: Mapped[str | None]  # a run that ended with an error has found less than all

    __table_args__ = (
        one_of("kind", BACKFILL_KINDS),
        one_of("leg", LEGS),
        Index("ix_backfills_open", "account", "id", postgresql_where=sql(OPEN_BACKFILL)),
        Index(
            "uq_backfills_current",
            "account",
            unique=True,
            postgresql_where=sql(f"kind = 'current' AND {OPEN_BACKFILL}"),
        ),
    )


class SourceEmail(Base):
    """A comment by e-mail that Zendesk lists, whether or not it is on record here: what the e-mails are counted against."""

    __tablename__ = "source_emails"

    account: Mapped[str] = mapped_column(primary_key=True)
    ticket_id: Mapped[str] = mapped_column(primary_key=True)
    comment_id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]  # when the comment was made
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (Index("ix_source_emails_created", "account", "created_at"),)


class RefusedTicket(Base):
    """A ticket whose comments Zendesk refuses to our credentials: its e-mails since a time are not known."""

    __tablename__ = "refused_tickets"

    account: Mapped[str] = mapped_column(primary_key=True)
    ticket_id: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime]  # its comments from here on are not known
    error_code: Mapped[str]
    error: Mapped[str]
    refused_at: Mapped[datetime] = mapped_column(server_default=func.now())
    refused_last_at: Mapped[datetime] = mapped_column(server_default=func.now())
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when it is asked for again


class SuspendedEmail(Base):
    """An e-mail that Zendesk holds back as suspended: no ticket, no webhook, and deleted there after two weeks."""

    __tablename__ = "suspended_emails"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    account: Mapped[str]
    suspended_id: Mapped[str]  # Zendesk's id
    ticket_id: Mapped[str | None]
    subject: Mapped[str | None]
    from_address: Mapped[str | None]
    from_name: Mapped[str | None]
    recipient: Mapped[str | None]
    cause: Mapped[str | None]
    message_id: Mapped[str | None]
    text: Mapped[str]  # the first TEXT_BYTES
    files: Mapped[Any] = mapped_column(
        JSON
    )  # a list of {"file_name", "size", "content_type", "sha256", "object_key", "error_code"}
    created_at: Mapped[datetime | None]  # at Zendesk
    record_sha256: Mapped[str]
    record_key: Mapped[str]
    record_size: Mapped[int] = mapped_column(BigInteger)
    # The hashes of its objects: the record and the stored files.
    contents: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when Zendesk last listed it
    gone_at: Mapped[datetime | None]  # when Zendesk no longer listed it
    email_id: Mapped[int | None] = mapped_column(BigInteger)  # the e-mail that it became

    __table_args__ = (
        Index("uq_suspended_emails_account", "account", "suspended_id", unique=True),
        Index("ix_suspended_emails_contents", "contents", postgresql_using="gin"),
        Index("ix_suspended_emails_held", "account", "created_at", postgresql_where=sql("gone_at IS NULL")),
        Index("ix_suspended_emails_email", "email_id", postgresql_where=sql("email_id IS NOT NULL")),
        Index("ix_suspended_emails_ticket", "ticket_id", postgresql_where=sql("ticket_id IS NOT NULL")),
        # An index cannot hold longer values.
        Index(
            "ix_suspended_emails_sender",
            sql("left(lower(from_address), 400)"),
            postgresql_where=sql("from_address IS NOT NULL"),
        ),
    )


class SigningSecret(Base):
    """The signing secret of a webhook that points to us, as Zendesk told it: encrypted, see `connect/secrets`."""

    __tablename__ = "signing_secrets"

    account: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(primary_key=True)
    encrypted: Mapped[bytes] = mapped_column(LargeBinary)
    fetched_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Connection(Base):
    """What `holdfast connect` made at an account, and what became of it there since: one row per account."""

    __tablename__ = "connections"

    account: Mapped[str] = mapped_column(primary_key=True)
    endpoint: Mapped[str]  # the address that Zendesk sends its webhooks to
    webhook_id: Mapped[str]
    trigger_id: Mapped[str]
    condition: Mapped[str]  # mail, any
    connected_at: Mapped[datetime] = mapped_column(server_default=func.now())
    checked_at: Mapped[datetime | None]
    drift: Mapped[Any] = mapped_column(JSON, server_default="[]")  # a list of {"code", "text"}
    drift_since: Mapped[datetime | None]
    error_code: Mapped[str | None]  # of the latest check, if Zendesk did not answer


def searched_until(but: str = "NULL") -> str:
    """Write in SQL until when the account of a row of `sources` was searched by all runs but one.

    A run that found all has seen every comment that was listed when it began.
    """
    return f"""greatest(sources.watermark, (
        SELECT started_at - interval '{HIDDEN_SECONDS} seconds' FROM backfills
        WHERE backfills.account = sources.account AND kind = 'current' AND NOT dry_run
            AND finished_at IS NOT NULL AND backfills.error_code IS NULL AND sources.watermark IS NOT NULL
            AND backfills.id IS DISTINCT FROM {but}
        ORDER BY id DESC LIMIT 1
    ))"""  # noqa: S608 a parameter's name
