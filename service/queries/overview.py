"""All e-mails at once: how many there are in each state, how long the oldest waits, and whether all is well."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import ColumnElement, ScalarSelect, func, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from service.database import connect
from service.models import STATUSES, IncomingEmail, QuarantinedWebhook, in_status
from service.operations import Alert
from service.queries.history import HOUR_CAP, Hour, Times, hours_of, times_of
from service.queries.views import ProcessingStatus, View
from service.queries.workers import WorkerView, workers_of

COUNT_CAP = 10_000
UNFINISHED = ("received", "queued", "processing")
# What failed, or is in quarantine, is counted anyway; an alert stays open for a while after its cause has gone.
_ALERTS = (
    select(Alert.summary)
    .where(
        Alert.resolved_at.is_(None),
        Alert.seen_at > func.now() - timedelta(minutes=1),
        Alert.cause.not_in(("failures", "quarantine")),
    )
    .order_by(Alert.cause, Alert.key)
    .limit(5)
)
# What had an attempt pauses before the next, or somebody runs it again: it is old, but does not wait for a worker.
_NOT_BEGUN = text(f"""
    SELECT extract(epoch FROM now() - min(received_at))::float8
    FROM unnest(ARRAY['received', 'queued']) AS every(status) CROSS JOIN LATERAL (
        SELECT received_at, attempt_number FROM incoming_emails
        WHERE processing_status = every.status ORDER BY received_at LIMIT (SELECT {COUNT_CAP})
    ) AS oldest
    WHERE attempt_number = 0
""")  # noqa: S608 a number of ours


class Stats(View):
    """Counts end at a cap; `capped` names those that did."""

    by_status: Mapping[ProcessingStatus, int]
    quarantined: int = Field(description="Requests that wait to be replayed")
    capped: Sequence[ProcessingStatus | Literal["quarantined"]]
    oldest_waiting_seconds: float | None
    oldest_not_begun_seconds: float | None = Field(
        description="Age of the oldest e-mail that waits and had no attempt yet"
    )
    oldest_by_status: Mapping[ProcessingStatus, float] = Field(
        description="Age in seconds of the oldest e-mail in each state that is not final"
    )


class Overview(Stats):
    """What an operator wants to know at a glance."""

    verdict: str
    state: Literal["safe", "attention", "late"]
    last_day: int  # e-mails received in the last 24 hours
    last_day_capped: bool
    not_safe: int  # of those: failed, and where one is late, also all that wait
    not_safe_capped: bool
    need_you: int  # failed or in quarantine, whenever they came
    need_you_capped: bool
    alerts: Sequence[str]  # of what is the matter now; failures and quarantine are counted
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
        alerts = (await conn.scalars(_ALERTS)).all()
    last_day = sum(hour.received for hour in hours)
    need_you = counts.by_status["failed"] + counts.quarantined
    waits = counts.oldest_not_begun_seconds
    late = (waits or 0) > late_after.total_seconds()
    last_day_capped = any(hour.capped for hour in hours)
    not_safe = [hour.failed + (hour.waiting if late else 0) for hour in hours]
    not_safe_capped = any(number >= HOUR_CAP for number in not_safe)
    need_you_capped = bool({"failed", "quarantined"} & set(counts.capped))
    return Overview(
        **dict(counts),
        verdict=_verdict(
            _number(last_day, last_day_capped),
            _number(sum(not_safe), not_safe_capped),
            _number(need_you, need_you_capped),
            alerts,
            _waits(waits, sum(n for status, n in counts.by_status.items() if status in UNFINISHED)),
        ),
        state="late" if late else "attention" if need_you or alerts else "safe",
        last_day=last_day,
        last_day_capped=last_day_capped,
        not_safe=sum(not_safe),
        not_safe_capped=not_safe_capped,
        need_you=need_you,
        need_you_capped=need_you_capped,
        alerts=alerts,
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
        not_begun = await conn.scalar(_NOT_BEGUN)
    found = {status: getattr(row, f"age_{status}") for status in UNFINISHED}
    oldest = {status: float(age) for status, age in found.items() if age is not None}
    return Stats(
        by_status={status: getattr(row, status) for status in STATUSES},
        quarantined=row.quarantined,
        capped=[name for name in counts if getattr(row, name) == COUNT_CAP],
        oldest_waiting_seconds=max(oldest.values(), default=None),
        oldest_not_begun_seconds=not_begun,
        oldest_by_status=oldest,
    )


async def ping(engine: AsyncEngine) -> None:
    async with connect(engine) as conn:
        await conn.execute(select(IncomingEmail.id).limit(1))


def _verdict(last_day: str, not_safe: str, need_you: str, alerts: Sequence[str], waits: str) -> str:
    needs = [f"{need_you} need{'s' if need_you == '1' else ''} you."] if need_you else []
    needs += [f"{alert}." for alert in alerts]
    return " ".join((_day(last_day, not_safe), *(needs or ["None needs you."]), waits))


def _waits(seconds: float | None, unfinished: int) -> str:
    if seconds is None:
        return f"{unfinished:,} in work." if unfinished else "Nothing waits."
    return f"Oldest waiting: {duration(seconds)}."


def _day(received: str, not_safe: str) -> str:
    if not received:
        return "No e-mail came in the last 24 hours."
    if received == "1":
        return f"The one e-mail of the last 24 hours is {'not ' if not_safe else ''}safe."
    if not not_safe:
        return f"All {received} e-mails of the last 24 hours are safe."
    return f"{not_safe} of {received} e-mails of the last 24 hours {'is' if not_safe == '1' else 'are'} not safe yet."


def _number(count: int, capped: bool) -> str:  # noqa: FBT001 each count has its own
    return f"{count:,}{'+' if capped else ''}" if count else ""


def duration(seconds: float) -> str:
    """Write a time in the one or two units that matter."""
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            rest = int(seconds % length // part)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds * 1000:.0f} ms" if 0 < seconds < 1 else f"{seconds:.0f} s"


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
