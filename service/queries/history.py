"""The last 24 hours, hour by hour: how many e-mails came and what became of them, and how long it took."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import STATUSES
from service.queries.views import View

HOUR_CAP = 10_000  # counted of each status in an hour
SAMPLE = 200  # the newest of an hour, by which its times are told
WIDE_SAMPLE = 1000  # likewise of all


class Times(View):
    """Seconds of the last attempts of the newest e-mails that completed; none where there are none."""

    queue_p50: float | None  # from when the attempt was due to its start
    queue_p95: float | None
    processing_p50: float | None  # from the start of the attempt to its end
    processing_p95: float | None


class Hour(Times):
    """The e-mails that came in an hour, and where they stand now."""

    start: datetime
    received: int
    completed: int
    failed: int
    waiting: int
    capped: bool


# Of 25 hours the first is the part of it that is not more than a day ago.
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
# As `queue_seconds` of an e-mail has it.
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
    """Tell of each hour, oldest first; the first and the last are not whole."""
    counts: dict[tuple[datetime, datetime], dict[str, int]] = {}
    for start, stop, status, number in await conn.execute(_COUNTS, {"statuses": list(STATUSES)}):
        counts.setdefault((start, stop), {})[status] = number
    times = {row.stop: _times(row) for row in await conn.execute(_TIMES_OF_HOURS)}
    return [_hour(start, counts[start, stop], times.get(stop, {})) for start, stop in sorted(counts)]


async def times_of(conn: AsyncConnection) -> Times:
    """Tell of the last day."""
    return Times(**_times((await conn.execute(_TIMES_OF_DAY)).one()))


def _hour(start: datetime, counts: dict[str, int], times: dict[str, float | None]) -> Hour:
    received = sum(counts.values())
    return Hour(
        start=start,
        received=received,
        completed=counts["completed"],
        failed=counts["failed"],
        waiting=received - counts["completed"] - counts["failed"],
        capped=HOUR_CAP in counts.values(),
        **{**dict.fromkeys(Times.model_fields), **times},
    )


def _times(row: Row[Any]) -> dict[str, float | None]:
    queue, processing = row.queue or (None, None), row.processing or (None, None)
    names = ("queue_p50", "queue_p95", "processing_p50", "processing_p95")
    return dict(zip(names, (*queue, *processing), strict=True))
