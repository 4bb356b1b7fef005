"""The last 24 hours, hour by hour: e-mails by state, and their times."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import DISMISSED, STATUSES
from service.queries.views import View

HOUR_CAP = 10_000  # counted per status and hour
SAMPLE = 200  # the newest e-mails of an hour, for its percentiles
WIDE_SAMPLE = 1000  # the newest e-mails of a day, for its percentiles


class Times(View):
    """Percentiles of the last attempts of the newest completed e-mails, in seconds; null without any."""

    queue_p50: float | None  # from the due time of the attempt to its start
    queue_p95: float | None
    processing_p50: float | None  # from the start of the attempt to its end
    processing_p95: float | None


class Hour(Times):
    """The e-mails received in an hour, by their current state."""

    start: datetime
    received: int
    completed: int
    failed: int
    dismissed: int = Field(description="Of the failed ones: dismissed, so they need no attention")
    waiting: int
    capped: bool


# 25 rows; the first is only the part of its hour within the last 24 hours.
_HOURS = """
    SELECT greatest(start, now() - interval '1 day') AS start, start + interval '1 hour' AS stop
    FROM generate_series(
        date_trunc('hour', now()) - interval '1 day', date_trunc('hour', now()), interval '1 hour'
    ) AS start
"""
_COUNTS = text(f"""
    SELECT hour.start, hour.stop, status.status, counted.number
    FROM ({_HOURS}) AS hour CROSS JOIN unnest(CAST(:statuses AS text[])) AS status (status)
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM (
            SELECT 1 FROM incoming_emails
            WHERE processing_status = status.status AND received_at >= hour.start AND received_at < hour.stop
            ORDER BY received_at DESC LIMIT {HOUR_CAP}
        ) AS chosen
    ) AS counted
""")  # noqa: S608 numbers and words of ours
# Few e-mails are dismissed, and of those of the last 24 hours the newest ones are counted.
_DISMISSED = text(f"""
    SELECT hour.stop, count(*) FROM ({_HOURS}) AS hour JOIN (
        SELECT received_at, processing_status FROM incoming_emails WHERE {DISMISSED}
        ORDER BY id DESC LIMIT (SELECT {HOUR_CAP})
    ) AS email ON received_at >= hour.start AND received_at < hour.stop
    WHERE processing_status = 'failed' GROUP BY hour.stop
""")  # noqa: S608 numbers and words of ours
# The same rule as `queue_seconds` of an e-mail.
_TIMES = """
    SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
        ORDER BY extract(epoch FROM CASE
            WHEN queued_at <= started_at THEN started_at - queued_at
            WHEN queued_at IS NOT NULL OR attempt_number = 1 THEN started_at - received_at
        END)::float8
    ) AS queue,
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
        ORDER BY extract(epoch FROM completed_at - started_at)::float8
    ) AS processing
    FROM (
        SELECT received_at, queued_at, started_at, completed_at, attempt_number FROM incoming_emails
        WHERE processing_status = (SELECT 'completed') AND received_at >= {start} AND received_at < {stop}
        ORDER BY received_at DESC LIMIT {sample}
    ) AS chosen
"""
_TIMES_OF_HOURS = text(f"""
    SELECT hour.stop, times.queue, times.processing FROM ({_HOURS}) AS hour
    CROSS JOIN LATERAL ({_TIMES.format(start="hour.start", stop="hour.stop", sample=SAMPLE)}) AS times
""")  # noqa: S608 as above
_TIMES_OF_DAY = text(
    _TIMES.format(start="now() - interval '1 day'", stop="'infinity'::timestamptz", sample=WIDE_SAMPLE)
)


async def hours_of(conn: AsyncConnection) -> Sequence[Hour]:
    """Return the hours, oldest first; the first and the last are partial."""
    counts: dict[tuple[datetime, datetime], dict[str, int]] = {}
    for start, stop, status, number in await conn.execute(_COUNTS, {"statuses": list(STATUSES)}):
        counts.setdefault((start, stop), {})[status] = number
    times = {row.stop: _times(row) for row in await conn.execute(_TIMES_OF_HOURS)}
    dismissed = {stop: int(number) for stop, number in await conn.execute(_DISMISSED)}
    return [
        _hour(start, {**counts[start, stop], "dismissed": dismissed.get(stop, 0)}, times.get(stop, {}))
        for start, stop in sorted(counts)
    ]


async def times_of(conn: AsyncConnection) -> Times:
    """Return the times of the last 24 hours."""
    return Times(**_times((await conn.execute(_TIMES_OF_DAY)).one()))


def _hour(start: datetime, counts: dict[str, int], times: dict[str, float | None]) -> Hour:
    received = sum(counts[status] for status in STATUSES)
    return Hour(
        start=start,
        received=received,
        completed=counts["completed"],
        failed=counts["failed"],
        dismissed=counts["dismissed"],
        waiting=received - counts["completed"] - counts["failed"],
        capped=HOUR_CAP in counts.values(),
        **{**dict.fromkeys(Times.model_fields), **times},
    )


def _times(row: Row[Any]) -> dict[str, float | None]:
    queue, processing = row.queue or (None, None), row.processing or (None, None)
    names = ("queue_p50", "queue_p95", "processing_p50", "processing_p95")
    return dict(zip(names, (*queue, *processing), strict=True))
