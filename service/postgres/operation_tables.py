"""The tables beside the e-mails: what operators did and asked for, which workers there are, and alerts."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base, one_of

RETRIED = ("job", "sync")
RETRY_STATUSES = ("running", "done", "cancelled")
# What became of an e-mail of a bulk retry; superseded: another retry began before it was seen how this one ended.
RETRY_OUTCOMES = ("repaired", "failed_again", "superseded")
CAUSES = (
    *("failures", "quarantine", "waiting", "silence", "signatures", "workers", "no_worker", "sync"),
    *("reconciliation", "credentials", "zendesk", "connections"),
)
CHANNELS = ("mail", "slack", "webhook")
NEWS = ("opened", "resolved")
DELIVERY_STATUSES = ("pending", "sent", "failed")
RUN_KINDS = ("reconcile", "verify")
RUN_STATUSES = ("running", "done", "failed", "abandoned", "cancelled")
# What a run puts right: nothing; documents that are missing or differ, which no harm can come of; or all that can be.
FIXES = ("nothing", "syncs", "all")
IN_TARGET = ("missing", "different", "ahead", "extra", "not_sent")
IN_STORAGE = ("object_missing", "object_damaged", "object_unreadable")
DIFFERENCES = (*IN_TARGET, *IN_STORAGE)
# What nobody needs to do anything about: it is of others, or takes some room.
REMARKS = ("foreign", "unclaimed")
# Also the predicates of partial indexes.
OPEN = "resolved_at IS NULL"
RUNNING = "status = 'running'"
DONE = "status = 'done'"
OPEN = "repair IS NULL AND closed_at IS NULL"
PENDING = "status = 'pending'"
UNSETTLED = "settled_at IS NULL"
NO_OUTCOME = "bulk_retry_id IS NOT NULL AND email_id IS NOT NULL AND outcome IS NULL"


# What a retry of many, or a reconciliation, does to each e-mail is told with the e-mail.
BY_HAND = "(email_id IS NULL OR bulk_retry_id IS NULL) AND actor <> 'reconcile'"


class OperatorAction(Base):
    """Something that an operator did: who, what, when, and to what."""

    __tablename__ = "operator_actions"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]  # a name that the person gave, and the way that they came
    action: Mapped[str]
    email_id: Mapped[int | None] = mapped_column(BigInteger)
    quarantine_id: Mapped[int | None] = mapped_column(BigInteger)
    bulk_retry_id: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str | None]  # of an e-mail of a bulk retry; null while it runs

    __table_args__ = (
        one_of("outcome", RETRY_OUTCOMES),
        Index("ix_operator_actions_open", "bulk_retry_id", "id", postgresql_where=text(NO_OUTCOME)),
        Index("ix_operator_actions_email", "email_id", "id", postgresql_where=text("email_id IS NOT NULL")),
        Index("ix_operator_actions_by_hand", "id", postgresql_where=text(BY_HAND)),
    )


class BulkRetry(Base):
    """A retry of all that match a filter: how far it is, for any worker to go on with it."""

    __tablename__ = "bulk_retries"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    what: Mapped[str] = mapped_column(server_default="job")  # of each e-mail
    filter: Mapped[Any]
    per_second: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(server_default="running")
    planned: Mapped[int] = mapped_column(BigInteger)  # how many matched when it was asked for
    planned_capped: Mapped[bool]  # at least so many
    retried: Mapped[int] = mapped_column(BigInteger, server_default="0")
    place_time: Mapped[datetime | None]  # how far the walk, newest first, has come
    place_id: Mapped[int | None] = mapped_column(BigInteger)
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when another step is due
    finished_at: Mapped[datetime | None]  # when the last one was queued
    # What became of the e-mails, as far as it is known.
    repaired: Mapped[int] = mapped_column(BigInteger, server_default="0")
    failed_again: Mapped[int] = mapped_column(BigInteger, server_default="0")
    superseded: Mapped[int] = mapped_column(BigInteger, server_default="0")
    look_place: Mapped[int] = mapped_column(BigInteger, server_default="0")  # the action looked at last
    look_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when the next look is due
    settled_at: Mapped[datetime | None]  # when nothing ran any more

    __table_args__ = (
        one_of("what", RETRIED),
        one_of("status", RETRY_STATUSES),
        Index("ix_bulk_retries_running", "next_at", postgresql_where=text("status = 'running'")),
        Index("ix_bulk_retries_unsettled", "look_at", postgresql_where=text(UNSETTLED)),
    )


class WorkerHeartbeat(Base):
    """A worker process, and when it was last heard of; one that ended as it should has `stopped_at`."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    pid: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    stopped_at: Mapped[datetime | None]
    jobs: Mapped[int] = mapped_column(Integer, server_default="0")  # held at that moment
    version: Mapped[str]
    metrics: Mapped[str | None]  # in Prometheus' text format: a platform's router reaches no worker


class Alert(Base):
    """Something that is the matter, from when it was first seen until it is over."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    cause: Mapped[str]
    key: Mapped[str]  # which of a cause's alerts: of failures their code and host, of others ""
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    resolved_at: Mapped[datetime | None]
    count: Mapped[int] = mapped_column(BigInteger)  # the most at one time
    summary: Mapped[str]
    detail: Mapped[str]
    email_id: Mapped[int | None] = mapped_column(BigInteger)  # an example

    __table_args__ = (
        one_of("cause", CAUSES),
        # However many watchers see a thing, one alert is open.
        Index("uq_alerts_open", "cause", "key", unique=True, postgresql_where=text(OPEN)),
        Index("ix_alerts_again", "cause", "key", "opened_at"),
    )


class AlertDelivery(Base):
    """News of an alert to one channel: to be sent, sent, or given up."""

    __tablename__ = "alert_deliveries"

    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id"), primary_key=True)
    news: Mapped[str] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    status: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")  # the fence
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())  # while it is being sent: a lease
    sent_at: Mapped[datetime | None]
    error: Mapped[str | None]

    __table_args__ = (
        one_of("news", NEWS),
        one_of("channel", CHANNELS),
        one_of("status", DELIVERY_STATUSES),
        Index("ix_alert_deliveries_due", "channel", "due_at", postgresql_where=text(PENDING)),
    )


class AlertWatch(Base):
    """The one row that watchers share: whose turn it is, and what only web processes know."""

    __tablename__ = "alert_watch"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    pass_number: Mapped[int] = mapped_column(BigInteger, server_default="0")  # the fence
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when another pass is due
    newest_id: Mapped[int] = mapped_column(BigInteger, server_default="0")  # e-mail at the start of this pass
    known_id: Mapped[int] = mapped_column(BigInteger, server_default="0")  # at that of the one before
    bad_signatures: Mapped[int] = mapped_column(Integer, server_default="0")  # in a row
    bad_signature_code: Mapped[str | None]
    bad_signature_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class Reconciliation(Base):
    """A comparison of Postgres with the target and the storage, or a verification of what is stored: what came of it."""

    __tablename__ = "reconciliations"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="running")
    actor: Mapped[str]
    fix: Mapped[str]
    since: Mapped[datetime | None]  # e-mails received before it were not looked at
    part: Mapped[int | None] = mapped_column(Integer)  # of the storage, which the hourly runs take in turn
    targets: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    emails: Mapped[int] = mapped_column(BigInteger, server_default="0")
    documents: Mapped[int] = mapped_column(BigInteger, server_default="0")
    objects: Mapped[int] = mapped_column(BigInteger, server_default="0")
    bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    unfinished: Mapped[int] = mapped_column(BigInteger, server_default="0")  # on their way to the target
    overdue: Mapped[int] = mapped_column(BigInteger, server_default="0")  # of those: for too long
    not_synced: Mapped[int] = mapped_column(
        BigInteger, server_default="0"
    )  # whose sync failed, which is known
    counts: Mapped[Any] = mapped_column(server_default="{}")  # of what was found, by its kind
    repaired: Mapped[Any] = mapped_column(server_default="{}")  # likewise
    error_code: Mapped[str | None]
    error: Mapped[str | None]
    # A verification is taken on in steps, by any worker.
    megabytes_per_second: Mapped[int | None] = mapped_column(Integer)
    place: Mapped[str | None]  # how far it has come
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when another step is due

    __table_args__ = (
        one_of("kind", RUN_KINDS),
        one_of("status", RUN_STATUSES),
        one_of("fix", FIXES),
        # One of a kind at a time.
        Index("uq_reconciliations_running", "kind", unique=True, postgresql_where=text(RUNNING)),
        Index("ix_reconciliations_done", "kind", "id", postgresql_where=text(DONE)),
    )


class ReconciliationFinding(Base):
    """Something that a run found, and what was done about it; before a document is removed, `detail` has all of it."""

    __tablename__ = "reconciliation_findings"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    reconciliation_id: Mapped[int] = mapped_column(ForeignKey("reconciliations.id", ondelete="CASCADE"))
    kind: Mapped[str]
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())
    email_id: Mapped[int | None] = mapped_column(BigInteger)
    key: Mapped[str]  # of the document, or of the object
    detail: Mapped[Any]
    repair: Mapped[str | None]
    repaired_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]  # when a later run had looked there again

    __table_args__ = (
        one_of("kind", (*DIFFERENCES, *REMARKS)),
        Index("ix_reconciliation_findings_open", "key", postgresql_where=text(OPEN)),
        Index("ix_reconciliation_findings_open_email", "email_id", postgresql_where=text(OPEN)),
        Index("ix_reconciliation_findings_run", "reconciliation_id", "id"),
    )


class EndedSession(Base):
    """A session of a browser that somebody signed out of; its cookie would still be good."""

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime] = mapped_column(server_default=func.now())


TABLES = Base.metadata  # all of them
