"""All e-mails at once: how many there are in each state, how long the oldest waits, and whether all is well."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import ColumnElement, ScalarSelect, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from service.database import connect
from service.models import STATUSES, IncomingEmail, QuarantinedWebhook, in_status
from service.queries.history import Hour, Times, hours_of, times_of
from service.queries.views import ProcessingStatus, View
from service.queries.workers import WorkerView, workers_of

COUNT_CAP = 10_000
LATE_AFTER = timedelta(minutes=10)
UNFINISHED = ("received", "queued", "processing")


class Stats(View):
    """Counts end at a cap; `capped` names those that did."""

    by_status: Mapping[ProcessingStatus, int]
    quarantined: int = Field(description="Requests that wait to be replayed")
    capped: Sequence[ProcessingStatus | Literal["quarantined"]]
    oldest_waiting_seconds: float | None
    oldest_by_status: Mapping[ProcessingStatus, float] = Field(
        description="Age in seconds of the oldest e-mail in each state that is not final"
    )


class Overview(Stats):
    """What an operator wants to know at a glance."""

    verdict: str
    state: Literal["safe", "attention", "late"]
    last_day: int  # e-mails received in the last 24 hours
    last_day_capped: bool
    need_you: int  # failed or in quarantine, whenever they came
    need_you_capped: bool
    times: Times
    hours: Sequence[Hour]
    workers: Sequence[WorkerView]


async def overview(engine: AsyncEngine, late_after: timedelta) -> Overview:
    """Sum up the last 24 hours and all that is open; what waits longer than `late_after` is late."""
    counts = await stats(engine)
    async with connect(engine) as conn:
        hours = await hours_of(conn)
        times = await times_of(conn)
        workers = await workers_of(conn)
    last_day = sum(hour.received for hour in hours)
    need_you = counts.by_status["failed"] + counts.quarantined
    late = (counts.oldest_waiting_seconds or 0) > late_after.total_seconds()
    last_day_capped = any(hour.capped for hour in hours)
    need_you_capped = bool({"failed", "quarantined"} & set(counts.capped))
    return Overview(
        **dict(counts),
        verdict=_verdict(
            f"{last_day:,}{'+' if last_day_capped else ''}" if last_day else "",
            f"{need_you:,}{'+' if need_you_capped else ''}" if need_you else "",
            counts.oldest_waiting_seconds,
        ),
        state="late" if late else "attention" if need_you else "safe",
        last_day=last_day,
        last_day_capped=last_day_capped,
        need_you=need_you,
        need_you_capped=need_you_capped,
        times=times,
        hours=hours,
        workers=workers,
    )


async def stats(engine: AsyncEngine) -> Stats:
    """Count by status, and find the oldest e-mail that is not finished."""
    counts = {
        **{status: _capped(in_status(status), IncomingEmail.received_at) for status in STATUSES},
        "quarantined": _capped(QuarantinedWebhook.replayed_at.is_(None), QuarantinedWebhook.id),
    }
    ages = [
        func.extract("epoch", func.now() - _oldest(status)).label(f"age_{status}") for status in UNFINISHED
    ]
    async with connect(engine) as conn:
        row = (
            await conn.execute(select(*(count.label(name) for name, count in counts.items()), *ages))
        ).one()
    found = {status: getattr(row, f"age_{status}") for status in UNFINISHED}
    oldest = {status: float(age) for status, age in found.items() if age is not None}
    return Stats(
        by_status={status: getattr(row, status) for status in STATUSES},
        quarantined=row.quarantined,
        capped=[name for name in counts if getattr(row, name) == COUNT_CAP],
        oldest_waiting_seconds=max(oldest.values(), default=None),
        oldest_by_status=oldest,
    )


async def ping(engine: AsyncEngine) -> None:
    async with connect(engine) as conn:
        await conn.execute(select(IncomingEmail.id).limit(1))


def _verdict(last_day: str, need_you: str, oldest_seconds: float | None) -> str:
    safe = f"All {last_day} e-mails of the last 24 hours are safe."
    if last_day == "1":
        safe = "The one e-mail of the last 24 hours is safe."
    needs = f"{need_you} need{'s' if need_you == '1' else ''} you." if need_you else "None needs you."
    waits = "Nothing waits." if oldest_seconds is None else f"Oldest waiting: {duration(oldest_seconds)}."
    return " ".join((safe if last_day else "No e-mail came in the last 24 hours.", needs, waits))


def duration(seconds: float) -> str:
    """Write a time in the one or two units that matter."""
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            rest = int(seconds % length // part)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds:.1f} s" if 0 < seconds < 1 else f"{seconds:.0f} s"


def _capped(condition: ColumnElement[bool], order: InstrumentedAttribute[Any]) -> ScalarSelect[int]:
    """Count in the order of an index that has just these."""
    some = select(literal_column("1")).where(condition).order_by(order).limit(COUNT_CAP).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def _oldest(status: str) -> ScalarSelect[datetime]:
    return (
        select(IncomingEmail.received_at)
        .where(in_status(status))
        .order_by(IncomingEmail.received_at)
        .limit(1)
        .scalar_subquery()
    )
