"""The overview: counts by state, the longest waits, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import ColumnElement, ScalarSelect, TextClause, func, literal_column, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from service.config.settings import Settings
from service.postgres.alert_tables import Alert
from service.postgres.columns import lacking_columns
from service.postgres.email_tables import (
    DISMISSED,
    DISMISSED_WEBHOOK,
    IN_QUARANTINE,
    NOT_SYNCED,
    OPEN_FAILED,
    OPEN_NOT_SYNCED,
    STATUSES,
    TO_SYNC,
    Base,
    IncomingEmail,
    QuarantinedWebhook,
    in_status,
)
from service.postgres.engine import WrongTables, check_writable, connect, run
from service.postgres.rows import BRIEF_TEXT
from service.postgres.search import BY_ERROR
from service.queries.calls import ApiUseView, api_use_of
from service.queries.comparison import ComparisonView, comparison_of, not_captured
from service.queries.completeness import CompletenessView, completeness_of
from service.queries.evidence import evidence_sentence
from service.queries.history import HOUR_CAP, Hour, Times, hours_of, times_of
from service.queries.verdict import MOMENT_SECONDS, VerdictFacts, shown, sync_sentences, verdict_of
from service.queries.views import ProcessingStatus, View
from service.queries.workers import WorkerView, workers_of

COUNT_CAP = 10_000
PING_SECONDS = 3.0
# One Literal instead of a union with ProcessingStatus, because client generators make one type of it.
Capped = Literal[
    "received",
    "queued",
    "processing",
    "completed",
    "failed",
    "quarantined",
    "sync_pending",
    "sync_failed",
    "open_failed",
    "open_sync_failed",
    "dismissed",
    "dismissed_webhooks",
]
UNFINISHED = ("received", "queued", "processing")
# Failures, quarantine and syncs have counts of their own. An alert stays open for some minutes after its condition ended.
_ALERTS = (
    select(func.left(Alert.summary, literal_column(str(BRIEF_TEXT))), Alert.cause)
    .where(
        Alert.resolved_at.is_(None),
        Alert.seen_at > func.now() - timedelta(minutes=1),
        Alert.cause.not_in(("failures", "quarantine")),
        or_(Alert.cause != "sync", Alert.key != ""),
    )
    .order_by(Alert.cause, Alert.key)
    .limit(5)
)
# E-mails after an attempt are left out: they are old, but pause before the next attempt.
_NOT_BEGUN = text(f"""
    SELECT extract(epoch FROM now() - min(received_at))::float8
    FROM unnest(ARRAY['received', 'queued']) AS every(status) CROSS JOIN LATERAL (
        SELECT received_at, attempt_number FROM incoming_emails
        WHERE processing_status = every.status ORDER BY received_at LIMIT (SELECT {COUNT_CAP})
    ) AS oldest
    WHERE attempt_number = 0
""")  # noqa: S608 a number of ours
# The longest wait of e-mails after an attempt, since they were queued again.
_QUEUED_AGAIN = text(f"""
    SELECT extract(epoch FROM now() - min(queued_at))::float8 FROM (
        SELECT queued_at, attempt_number FROM incoming_emails
        WHERE processing_status = (SELECT 'queued') ORDER BY received_at LIMIT (SELECT {COUNT_CAP})
    ) AS oldest
    WHERE attempt_number > 0
""")  # noqa: S608 a number of ours
_UNREAD = text(f"""
    SELECT count(*) FROM (
        SELECT received_at FROM quarantined_webhooks WHERE {IN_QUARANTINE}
        ORDER BY id DESC LIMIT (SELECT {COUNT_CAP})
    ) AS newest
    WHERE received_at > now() - interval '1 day'
""")  # noqa: S608 a number of ours

# Sorted by due time: no pause is longer than the maximum, so the oldest sync is among these.
_TO_SYNC = text(f"""
    SELECT count(*) AS number, extract(epoch FROM now() - min(sync_begun_at))::float8 AS age FROM (
        SELECT sync_begun_at FROM incoming_emails WHERE {TO_SYNC}
        ORDER BY sync_due_at LIMIT (SELECT {COUNT_CAP})
    ) AS due
""")  # noqa: S608 words and a number of ours


class Stats(View):
    """Counts up to a cap; `capped` names the counts that reached it."""

    by_status: Mapping[ProcessingStatus, int]
    quarantined: int = Field(description="Webhooks in quarantine that were neither replayed nor dismissed")
    by_sync_status: Mapping[Literal["pending", "failed"], int] = Field(
        description="Finished e-mails whose sync is pending, and e-mails whose sync failed"
    )
    open_failed: int = Field(description="Failed e-mails that nobody dismissed")
    open_sync_failed: int = Field(description="E-mails whose sync failed, and that nobody dismissed")
    dismissed: int = Field(description="E-mails that a person dismissed; they keep their status")
    dismissed_webhooks: int = Field(description="Webhooks in quarantine that a person dismissed")
    capped: Sequence[Capped]
    oldest_waiting_seconds: float | None
    oldest_not_begun_seconds: float | None = Field(
        description="Age of the oldest waiting e-mail without an attempt"
    )
    oldest_by_status: Mapping[ProcessingStatus, float] = Field(
        description="Age in seconds of the oldest e-mail in each unfinished state"
    )
    oldest_sync_seconds: float | None = Field(
        description="Age of the oldest pending sync of a finished e-mail"
    )


class Overview(Stats):
    """The state of the whole system at a glance."""

    verdict: str
    state: Literal["safe", "attention", "late"]
    last_day: int  # e-mails received in the last 24 hours
    last_day_capped: bool
    not_safe: int  # failed ones among these that nobody dismissed, and if one is late, all waiting ones
    not_safe_capped: bool
    need_you: int  # failed or in quarantine, at any time, and not dismissed
    need_you_capped: bool
    has_target: bool = Field(description="Whether a target for finished e-mails is set")
    unread: int = Field(description="Webhooks of the last 24 hours in quarantine")
    unread_capped: bool
    comparison: ComparisonView = Field(description="The latest comparison, and the open differences")
    completeness: CompletenessView = Field(
        description="Whether every e-mail that Zendesk has is kept; `/api/v1/source` has the days"
    )
    evidence: str = Field(
        description="When what is on record was last compared with the evidence log, and what that found"
    )
    alerts: Sequence[
        str
    ]  # the current conditions, except failures, quarantine, and syncs of e-mails that are here
    times: Times
    hours: Sequence[Hour]
    workers: Sequence[WorkerView]
    api_use: ApiUseView | None = Field(
        description="Calls to Zendesk's API in this minute; null before the first one"
    )


@dataclass(frozen=True)
class _Reads:
    """The results of the overview's queries, besides the counts."""

    hours: Sequence[Hour]
    times: Times
    workers: Sequence[WorkerView]
    alerts: Sequence[tuple[str, str]]  # summary and cause
    queued_again: float | None  # seconds
    unread: int
    comparison: ComparisonView
    completeness: CompletenessView
    evidence: str
    api_use: ApiUseView | None


async def summarize(engine: AsyncEngine, settings: Settings) -> Overview:
    """Sum up the last 24 hours and everything that is open; an e-mail is late after `late_after`.

    Without a target the verdict ignores syncs, even if old rows have some.
    """
    counts = await stats(engine)
    reads = await _read(engine, settings)
    has_target, late_after = bool(settings.sync_url), settings.late_after.total_seconds()
    waits = _longest(counts.oldest_not_begun_seconds, reads.queued_again)
    is_late = (waits or 0) > late_after
    totals = _totals(counts, reads, is_late=is_late)
    sentences = _sentences(counts, reads, has_target=has_target)
    sync_waits = counts.oldest_sync_seconds if has_target else None
    facts = VerdictFacts(
        **_shown(totals),
        others=sentences,
        waits=waits,
        unfinished=_unfinished(counts),
        sync_waits=sync_waits,
        is_late=is_late,
        has_dismissed=any(hour.dismissed for hour in reads.hours),
        complete=reads.completeness.sentence if reads.completeness.is_on else "",
    )
    is_urgent = _is_urgent(sentences, reads)
    needs_attention = totals["need_you"] or is_urgent or (sync_waits or 0) > late_after
    return Overview(
        **dict(counts),
        **totals,
        verdict=verdict_of(facts),
        state="late" if is_late else "attention" if needs_attention else "safe",
        has_target=has_target,
        comparison=reads.comparison,
        completeness=reads.completeness,
        evidence=reads.evidence,
        alerts=[summary for summary, _ in reads.alerts],
        times=reads.times,
        hours=reads.hours,
        workers=reads.workers,
        api_use=reads.api_use,
    )


async def stats(engine: AsyncEngine) -> Stats:
    """Count e-mails by status, and find the oldest unfinished e-mail and the oldest pending sync."""
    email, webhook = (partial(_capped, table) for table in (IncomingEmail, QuarantinedWebhook))
    counts = {
        **{status: email(in_status(status), IncomingEmail.received_at) for status in STATUSES},
        "sync_failed": email(text(NOT_SYNCED), IncomingEmail.id),
        "open_failed": email(text(OPEN_FAILED), *BY_ERROR),
        "open_sync_failed": email(text(OPEN_NOT_SYNCED), IncomingEmail.id),
        "dismissed": email(text(DISMISSED), IncomingEmail.id),
        "quarantined": webhook(text(IN_QUARANTINE), QuarantinedWebhook.id),
        "dismissed_webhooks": webhook(text(DISMISSED_WEBHOOK), QuarantinedWebhook.id),
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
        **{name: getattr(row, name) for name in counts if name in Stats.model_fields},
        by_sync_status={"pending": to_sync.number, "failed": row.sync_failed},
        capped=[name for name, number in known.items() if number == COUNT_CAP],
        oldest_waiting_seconds=max(oldest.values(), default=None),
        oldest_not_begun_seconds=not_begun,
        oldest_by_status=oldest,
        oldest_sync_seconds=to_sync.age,
    )


async def ping(engine: AsyncEngine) -> None:
    """Check that Postgres answers, has our tables and accepts writes; raises Transient."""

    async def check(conn: AsyncConnection) -> None:
        await check_writable(conn)
        await conn.execute(select(IncomingEmail.id).limit(1))
        if await lacking_columns(conn):
            raise WrongTables

    await run(engine, PING_SECONDS, check)


async def _read(engine: AsyncEngine, settings: Settings) -> _Reads:
    async with connect(engine) as conn:
        return _Reads(
            hours=await hours_of(conn),
            times=await times_of(conn),
            workers=await workers_of(conn),
            alerts=[(summary, cause) for summary, cause in await conn.execute(_ALERTS)],
            queued_again=await conn.scalar(_QUEUED_AGAIN),
            unread=int(await conn.scalar(_UNREAD) or 0),
            comparison=await comparison_of(conn, settings),
            completeness=await completeness_of(conn, settings),
            evidence=await evidence_sentence(conn, settings),
            api_use=await api_use_of(conn, settings),
        )


def _sentences(counts: Stats, reads: _Reads, *, has_target: bool) -> Sequence[str]:
    """Return the sentences of the verdict about syncs, files that were not captured, and alerts."""
    failed = shown(counts.open_sync_failed, "open_sync_failed" in counts.capped)
    return [
        *(sync_sentences(failed) if has_target else ()),
        *not_captured(reads.comparison.not_captured),
        *(f"{summary}." for summary, _ in reads.alerts),
    ]


def _is_urgent(sentences: Sequence[str], reads: _Reads) -> bool:
    # Credentials that expire in some months are in the verdict, but endanger no e-mail yet.
    later = sum(cause == "credentials" for _, cause in reads.alerts)
    return len(sentences) > later or reads.completeness.needs_attention


def _totals(counts: Stats, reads: _Reads, *, is_late: bool) -> dict[str, int]:
    """Return the counts of the overview; if one e-mail is late, all waiting ones count as not safe."""
    not_safe = [hour.failed - hour.dismissed + (hour.waiting if is_late else 0) for hour in reads.hours]
    return {
        "last_day": sum(hour.received for hour in reads.hours),
        "last_day_capped": any(hour.capped for hour in reads.hours),
        "not_safe": sum(not_safe),
        "not_safe_capped": any(number >= HOUR_CAP for number in not_safe),
        "need_you": counts.open_failed + counts.quarantined,
        "need_you_capped": bool({"open_failed", "quarantined"} & set(counts.capped)),
        "unread": reads.unread,
        "unread_capped": reads.unread >= COUNT_CAP,
    }


def _shown(totals: Mapping[str, int]) -> dict[str, str]:
    names = ("last_day", "not_safe", "need_you", "unread")
    return {name: shown(totals[name], bool(totals[f"{name}_capped"])) for name in names}


def _unfinished(counts: Stats) -> str:
    count = sum(n for status, n in counts.by_status.items() if status in UNFINISHED)
    return shown(count, bool(set(UNFINISHED) & set(counts.capped)))


def _longest(not_begun: float | None, queued_again: float | None) -> float | None:
    """Return the longest wait for a worker; an e-mail queued again just now does not count."""
    waits = [not_begun] if not_begun is not None else []
    waits += [queued_again] if queued_again is not None and queued_again > MOMENT_SECONDS else []
    return max(waits, default=None)


def _capped(
    table: type[Base],
    condition: ColumnElement[bool] | TextClause,
    *order: InstrumentedAttribute[Any] | TextClause,
) -> ScalarSelect[int]:
    """Count up to the cap, in the order of a partial index on this condition."""
    limited = (
        select(literal_column("1"))
        .select_from(table)
        .where(condition)
        .order_by(*order)
        .limit(COUNT_CAP)
        .subquery()
    )
    return select(func.count()).select_from(limited).scalar_subquery()


def _oldest(status: str) -> ScalarSelect[datetime]:
    return (
        select(IncomingEmail.received_at)
        .where(in_status(status))
        .order_by(IncomingEmail.received_at)
        .limit(1)
        .scalar_subquery()
    )
