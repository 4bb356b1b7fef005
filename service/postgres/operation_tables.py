"""The tables of operation: actions of operators, bulk retries, workers, ended sessions, and logins of commands."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres import (  # noqa: F401 adds their tables to the metadata
    alert_tables,
    erasure_tables,
    evidence_tables,
    hold_tables,
    message_tables,
    reconciliation_tables,
    removal_tables,
    source_tables,
)
from service.postgres.email_tables import Base, one_of

RETRIED = ("job", "sync", "webhook")
# What is done to each e-mail or webhook of a bulk retry. One mechanism does all of them.
BULK_ACTIONS = ("retry", "dismiss", "undismiss", "replay")
RETRY_STATUSES = ("running", "done", "cancelled")
# How an e-mail of a bulk retry ended; superseded: another retry began before the end of this one was seen.
RETRY_OUTCOMES = ("repaired", "failed_again", "superseded")
ROLES = ("operator", "reader")
# Predicates of partial indexes.
RUNNING = "status = 'running'"
UNSETTLED = "settled_at IS NULL"
NO_OUTCOME = "bulk_retry_id IS NOT NULL AND email_id IS NOT NULL AND outcome IS NULL"
# The steps of a bulk retry or a reconciliation are shown with each e-mail, not among the actions of people.
BY_HAND = "(email_id IS NULL OR bulk_retry_id IS NULL) AND actor <> 'reconcile'"


class OperatorAction(Base):
    """An action of an operator: its actor, time and object."""

    __tablename__ = "operator_actions"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]  # the name that the person gave, and the channel
    action: Mapped[str]
    email_id: Mapped[int | None] = mapped_column(BigInteger)
    quarantine_id: Mapped[int | None] = mapped_column(BigInteger)
    bulk_retry_id: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str | None]  # of an e-mail of a bulk retry; null while it runs
    reason: Mapped[str | None]  # of a dismissal, as the person wrote it
    finding_id: Mapped[int | None] = mapped_column(BigInteger)  # of a reconciliation
    subject: Mapped[str | None]  # the name of a hold or of a retention rule

    __table_args__ = (
        one_of("outcome", RETRY_OUTCOMES),
        Index("ix_operator_actions_open", "bulk_retry_id", "id", postgresql_where=text(NO_OUTCOME)),
        Index("ix_operator_actions_email", "email_id", "id", postgresql_where=text("email_id IS NOT NULL")),
        Index("ix_operator_actions_by_hand", "id", postgresql_where=text(BY_HAND)),
    )


class BulkRetry(Base):
    """A retry of all e-mails that match a filter: its progress, for any worker to continue.

    A dismissal of all that match is one, too.
    """

    __tablename__ = "bulk_retries"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    what: Mapped[str] = mapped_column(
        server_default="job"
    )  # the job or the sync of each e-mail; or webhooks in quarantine
    action: Mapped[str] = mapped_column(server_default="retry")
    reason: Mapped[str | None]  # of a dismissal
    filter: Mapped[Any]
    per_second: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(server_default="running")
    planned: Mapped[int] = mapped_column(BigInteger)  # the number of matches at its start
    planned_capped: Mapped[bool]  # the number is a lower bound
    retried: Mapped[int] = mapped_column(BigInteger, server_default="0")
    place_time: Mapped[datetime | None]  # the cursor of its search, newest first
    place_id: Mapped[int | None] = mapped_column(BigInteger)
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # the time of the next step
    finished_at: Mapped[datetime | None]  # the time when the last one was queued
    # The known outcomes of its e-mails.
    repaired: Mapped[int] = mapped_column(BigInteger, server_default="0")
    failed_again: Mapped[int] = mapped_column(BigInteger, server_default="0")
    superseded: Mapped[int] = mapped_column(BigInteger, server_default="0")
    look_place: Mapped[int] = mapped_column(
        BigInteger, server_default="0"
    )  # the last action whose outcome was checked
    look_at: Mapped[datetime] = mapped_column(server_default=func.now())  # the time of the next check
    settled_at: Mapped[datetime | None]  # the time when none of its e-mails ran any more

    __table_args__ = (
        one_of("what", RETRIED),
        one_of("action", BULK_ACTIONS),
        one_of("status", RETRY_STATUSES),
        Index("ix_bulk_retries_running", "next_at", postgresql_where=text(RUNNING)),
        Index("ix_bulk_retries_unsettled", "look_at", postgresql_where=text(UNSETTLED)),
    )


class SavedFilter(Base):
    """A filter of the list of e-mails under a name, for everybody."""

    __tablename__ = "saved_filters"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    filter: Mapped[Any]
    saved_at: Mapped[datetime] = mapped_column(server_default=func.now())
    saved_by: Mapped[str]


class Acknowledgement(Base):
    """Who looks after a group of failures: those with a code and a host, each `none` without one."""

    __tablename__ = "acknowledgements"

    error_code: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    by: Mapped[str]
    note: Mapped[str]


class WorkerHeartbeat(Base):
    """A worker process and its last heartbeat; a normal shutdown sets `stopped_at`."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    pid: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    stopped_at: Mapped[datetime | None]
    jobs: Mapped[int] = mapped_column(
        Integer, server_default="0"
    )  # jobs that it was processing at that moment
    version: Mapped[str]
    metrics: Mapped[str | None]  # in Prometheus' text format: a platform's router cannot reach a worker


class EndedSession(Base):
    """A signed-out browser session; its cookie would otherwise still be valid."""

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Login(Base):
    """The command line of a person on another machine; of its secret only hashes are kept.

    It waits for a person while it has a `user_code`. Refused ones are revoked without a confirmation.
    """

    __tablename__ = "logins"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str]  # of the machine
    secret_hash: Mapped[bytes] = mapped_column(unique=True)
    user_code: Mapped[str | None] = mapped_column(unique=True)  # typed by the person, once
    begun_at: Mapped[datetime] = mapped_column(server_default=func.now())
    polled_at: Mapped[datetime | None]
    role: Mapped[str | None]
    proof: Mapped[bytes | None]  # made with the role's token: a new token ends the login
    confirmed_at: Mapped[datetime | None]
    confirmed_by: Mapped[str | None]
    ends_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]  # to the minute
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None]

    __table_args__ = (one_of("role", ROLES),)


TABLES = Base.metadata  # of all modules of tables
