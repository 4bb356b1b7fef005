"""The tables beside the e-mails: what operators did and asked for, and which workers there are."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, Integer, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.models import Base, one_of

RETRY_STATUSES = ("running", "done", "cancelled")


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

    __table_args__ = (
        Index("ix_operator_actions_email", "email_id", "id", postgresql_where=text("email_id IS NOT NULL")),
    )


class BulkRetry(Base):
    """A retry of all that match a filter: how far it is, for any worker to go on with it."""

    __tablename__ = "bulk_retries"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    filter: Mapped[Any]
    per_second: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(server_default="running")
    planned: Mapped[int] = mapped_column(BigInteger)  # how many matched when it was asked for
    planned_capped: Mapped[bool]  # at least so many
    retried: Mapped[int] = mapped_column(BigInteger, server_default="0")
    place_time: Mapped[datetime | None]  # how far the walk, newest first, has come
    place_id: Mapped[int | None] = mapped_column(BigInteger)
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())  # when another step is due
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        one_of("status", RETRY_STATUSES),
        Index("ix_bulk_retries_running", "next_at", postgresql_where=text("status = 'running'")),
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


TABLES = Base.metadata  # all of them
