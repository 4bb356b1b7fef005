"""All e-mails at once: how many there are in each state, how long the oldest waits, and whether all is well."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import ColumnElement, ScalarSelect, TextClause, func, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from service.config.settings import Settings
from service.postgres.email_tables import (
    NOT_SYNCED,
    STATUSES,
    TO_SYNC,
    IncomingEmail,
    QuarantinedWebhook,
    in_status,
)
from service.postgres.engine import check_writable, connect, run
from service.postgres.operation_tables import Alert
from service.postgres.rows import BRIEF_TEXT
from service.queries.comparison import ComparisonView, comparison_of, not_captured
from service.queries.history import HOUR_CAP, Hour, Times, hours_of, times_of
from service.queries.verdict import MOMENT_SECONDS, Told, of_syncs, say, shown
from service.queries.views import ProcessingStatus, View
from service.queries.workers import WorkerView, workers_of

COUNT_CAP = 10_000
PING_SECONDS = 3.0
# One list of words, and not a union with ProcessingStatus: programs that make clients make one type of it.
Capped = Literal[
    "received", "queued", "processing", "completed", "failed", "quarantined", "sync_pending", "sync_failed"
]
UNFINISHED = ("received", "queued", "processing")
# What failed, is in quarantine or not synced is counted anyway; an alert stays open for a while after its cause has gone.
_ALERTS = (
    select(func.left(Alert.summary, literal_column(str(BRIEF_TEXT))), Alert.cause)
    .where(
        Alert.resolved_at.is_(None),
        Alert.seen_at > func.now() - timedelta(minutes=1),
        Alert.cause.not_in(("failures", "quarantine", "sync")),
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
# It waits for a worker since it was queued again, or since its pause was over.
_AGAIN = text(f"""
    SELECT extract(epoch FROM now() - min(queued_at))::float8 FROM (
        SELECT queued_at, attempt_number FROM incoming_emails
        WHERE processing_status = (SELECT 'queued') ORDER BY received_at LIMIT (SELECT {COUNT_CAP})
    ) AS oldest
    WHERE attempt_number > 0
""")  # noqa: S608 a number of ours
_UNREAD = text(f"""
    SELECT count(*) FROM (
        SELECT received_at FROM quarantined_webhooks WHERE replayed_at IS NULL
        ORDER BY id DESC LIMIT (SELECT {COUNT_CAP})
    ) AS newest
    WHERE received_at > now() - interval '1 day'
""")  # noqa: S608 a number of ours

# What was due first: nothing is put off for longer than the longest pause, so the oldest is among them.
_TO_SYNC = text(f"""
    SELECT count(*) AS number, extract(epoch FROM now() - min(sync_begun_at))::float8 AS age FROM (
        SELECT sync_begun_at FROM incoming_emails WHERE {TO_SYNC}
        ORDER BY sync_due_at LIMIT (SELECT {COUNT_CAP})
    ) AS due
""")  # noqa: S608 words and a number of ours


class Stats(View):
    """Counts end at a cap; `capped` names those that did."""

    by_status: Mapping[ProcessingStatus, int]
    quarantined: int = Field(description="Requests that wait to be replayed")
    by_sync_status: Mapping[Literal["pending", "failed"], int] = Field(
        description="Finished e-mails that wait for their sync, and e-mails that could not be synced"
    )
    capped: Sequence[Capped]
    oldest_waiting_seconds: float | None
    oldest_not_begun_seconds: float | None = Field(
        description="Age of the oldest e-mail that waits and had no attempt yet"
    )
    oldest_by_status: Mapping[ProcessingStatus, float] = Field(
        description="Age in seconds of the oldest e-mail in each state that is not final"
    )
    oldest_sync_seconds: float | None = Field(
        description="How long a finished e-mail has waited for its sync by now, at most"
    )


class Overview(Stats):
    """What an operator wants to know at a glance."""

    verdict: str
    state: Literal["safe", "attention", "late"]
    last_day: int  # e-mails received in the last 24 hours
    last_day_capped: bool
    not_safe: int  # of those: failed, and where one is late, also all that wait
    not_safe_capped: bool
    need_you: int  # failed or in quarantine, whenever they came; what could not be synced may be one of them
    need_you_capped: bool
    has_target: bool = Field(description="Whether there is a target that finished e-mails are carried to")
    unread: int = Field(description="Requests of the last 24 hours that are in quarantine")
    unread_capped: bool
    comparison: ComparisonView = Field(
        description="What was compared with what is on record, when, and what differs by now"
    )
    alerts: Sequence[str]  # of what is the matter now; failures and quarantine are counted
    times: Times
    hours: Sequence[Hour]
    workers: Sequence[WorkerView]


async def of(engine: AsyncEngine, settings: Settings) -> Overview:
    """Sum up the last 24 hours and all that is open; what waits longer than `late_after` is late.

    Without a target the verdict says nothing of syncs, whatever is on record from when there was one.
    """
    late_after, has_target = settings.late_after, bool(settings.sync_url)
    counts = await stats(engine)
    async with connect(engine) as conn:
        hours = await hours_of(conn)
        times = await times_of(conn)
        workers = await workers_of(conn)
        opened = (await conn.execute(_ALERTS)).all()
        again = await conn.scalar(_AGAIN)
        unread = int(await conn.scalar(_UNREAD) or 0)
        comparison = await comparison_of(conn, settings)
    alerts = [summary for summary, _ in opened]
    last_day = sum(hour.received for hour in hours)
    need_you = counts.by_status["failed"] + counts.quarantined
    waits = _longest(counts.oldest_not_begun_seconds, again)
    late = (waits or 0) > late_after.total_seconds()
    failed = shown(counts.by_sync_status["failed"], "sync_failed" in counts.capped)
    syncs = of_syncs(failed) if has_target else ()
    sync_waits = counts.oldest_sync_seconds if has_target else None
    # Credentials that end months from now are told, but no e-mail is in danger yet.
    urgent = any(cause != "credentials" for _, cause in opened)
    lacking = not_captured(comparison.not_captured)
    needs_look = need_you or syncs or urgent or lacking or (sync_waits or 0) > late_after.total_seconds()
    last_day_capped = any(hour.capped for hour in hours)
    not_safe = [hour.failed + (hour.waiting if late else 0) for hour in hours]
    not_safe_capped = any(number >= HOUR_CAP for number in not_safe)
    unfinished = sum(n for status, n in counts.by_status.items() if status in UNFINISHED)
    need_you_capped = bool({"failed", "quarantined"} & set(counts.capped))
    return Overview(
        **dict(counts),
        verdict=say(
            Told(
                shown(last_day, last_day_capped),
                shown(sum(not_safe), not_safe_capped),
                shown(need_you, need_you_capped),
                (*syncs, *lacking, *(f"{alert}." for alert in alerts)),
                waits,
                shown(unfinished, bool(set(UNFINISHED) & set(counts.capped))),
                sync_waits,
                shown(unread, unread >= COUNT_CAP),
            )
        ),
        state="late" if late else "attention" if needs_look else "safe",
        last_day=last_day,
        last_day_capped=last_day_capped,
        not_safe=sum(not_safe),
        not_safe_capped=not_safe_capped,
        need_you=need_you,
        need_you_capped=need_you_capped,
        has_target=has_target,
        unread=unread,
        unread_capped=unread >= COUNT_CAP,
        comparison=comparison,
        alerts=alerts,
        times=times,
        hours=hours,
        workers=workers,
    )


async def stats(engine: AsyncEngine) -> Stats:
    """Count by status, and find the oldest e-mail that is not finished, or not synced."""
    counts = {
        **{status: _capped(in_status(status), IncomingEmail.received_at) for status in STATUSES},
        "sync_failed": _capped(text(NOT_SYNCED), IncomingEmail.id),
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
        to_sync = (await conn.execute(_TO_SYNC)).one()
    found = {status: getattr(row, f"age_{status}") for status in UNFINISHED}
    oldest = {status: float(age) for status, age in found.items() if age is not None}
    known = {**{name: getattr(row, name) for name in counts}, "sync_pending": to_sync.number}
    return Stats(
        by_status={status: getattr(row, status) for status in STATUSES},
        quarantined=row.quarantined,
        by_sync_status={"pending": to_sync.number, "failed": row.sync_failed},
        capped=[name for name, number in known.items() if number == COUNT_CAP],
        oldest_waiting_seconds=max(oldest.values(), default=None),
        oldest_not_begun_seconds=not_begun,
        oldest_by_status=oldest,
        oldest_sync_seconds=to_sync.age,
    )


async def ping(engine: AsyncEngine) -> None:
    """Find out whether Postgres answers, has our tables and accepts writes; raises Transient."""

    async def look(conn: AsyncConnection) -> None:
        await check_writable(conn)
        await conn.execute(select(IncomingEmail.id).limit(1))

    await run(engine, PING_SECONDS, look)


def _longest(not_begun: float | None, again: float | None) -> float | None:
    """Give how long an e-mail has waited for a worker at most; one that was queued again a moment ago does not count."""
    waits = [not_begun] if not_begun is not None else []
    waits += [again] if again is not None and again > MOMENT_SECONDS else []
    return max(waits, default=None)


def _capped(
    condition: ColumnElement[bool] | TextClause, order: InstrumentedAttribute[Any]
) -> ScalarSelect[int]:
    """Count in the order of an index that has just these."""
    some = (
        select(literal_column("1"))
        .select_from(order.class_)
        .where(condition)
        .order_by(order)
        .limit(COUNT_CAP)
        .subquery()
    )
    return select(func.count()).select_from(some).scalar_subquery()


def _oldest(status: str) -> ScalarSelect[datetime]:
    return (
        select(IncomingEmail.received_at)
        .where(in_status(status))
        .order_by(IncomingEmail.received_at)
        .limit(1)
        .scalar_subquery()
    )
