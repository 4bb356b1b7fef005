"""The table of deliveries: one process claims a delivery for the length of a lease, and records its outcome."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Integer, Interval, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.alert_tables import PENDING_DELIVERY

# Longer than a delivery may take, including the attempts to record its outcome.
LEASE = timedelta(seconds=120)
PAUSE = timedelta(seconds=15)
MAX_PAUSE = timedelta(minutes=10)


@dataclass(frozen=True)
class Delivery:
    """News of an alert that this process claimed; `attempt` is the fencing token."""

    alert_id: int
    news: str
    channel: str
    attempt: int
    at: datetime  # the time of the news
    cause: str
    key: str
    count: int
    summary: str
    detail: str
    email_id: int | None
    opened_at: datetime
    resolved_at: datetime | None


async def claim(conn: AsyncConnection, channel: str) -> Delivery | None:
    """Claim the delivery that has been due longest on a channel; None if none is due.

    The news that an alert ended waits for the news that it began.
    """
    row = (await conn.execute(_CLAIM, {"channel": channel})).one_or_none()
    return Delivery(*row) if row else None


async def record_sent(conn: AsyncConnection, delivery: Delivery, remark: str | None) -> None:
    """Record a delivery as sent, unless another process has claimed it since."""
    await conn.execute(_SENT, {**_names(delivery), "remark": remark})


async def postpone(conn: AsyncConnection, delivery: Delivery, error: str, pause: timedelta) -> None:
    """Make a delivery due again after a pause, unless another process has claimed it since."""
    await conn.execute(_POSTPONE, {**_names(delivery), "remark": error, "pause": pause})


def pause_after(attempt: int, asked: timedelta | None) -> timedelta:
    """Return the pause that the receiver asked for, else an exponential backoff; 10 minutes at most."""
    return min(asked or PAUSE * 2 ** min(attempt - 1, 10), MAX_PAUSE)


def _names(delivery: Delivery) -> dict[str, object]:
    return {name: getattr(delivery, name) for name in ("alert_id", "news", "channel", "attempt")}


_CLAIM = text("""
WITH due AS (
    SELECT alert_id, news, channel FROM alert_deliveries AS delivery
    WHERE status = 'pending' AND channel = :channel AND due_at <= now() AND NOT EXISTS (
        SELECT FROM alert_deliveries AS before
        WHERE delivery.news = 'resolved' AND before.news = 'opened' AND before.status = 'pending'
            AND before.alert_id = delivery.alert_id AND before.channel = delivery.channel
    )
    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE alert_deliveries AS delivery SET attempts = attempts + 1, due_at = now() + :lease
    FROM due
    WHERE (delivery.alert_id, delivery.news, delivery.channel) = (due.alert_id, due.news, due.channel)
    RETURNING delivery.alert_id, delivery.news, delivery.channel, delivery.attempts, delivery.created_at
)
SELECT claimed.*, alert.cause, alert.key, alert.count, alert.summary, alert.detail, alert.email_id,
    alert.opened_at, alert.resolved_at
FROM claimed JOIN alerts AS alert ON alert.id = claimed.alert_id
""").bindparams(bindparam("channel", type_=Text()), bindparam("lease", LEASE, Interval()))

_MINE = "alert_id = :alert_id AND news = :news AND channel = :channel AND attempts = :attempt"
_TYPES = (bindparam("attempt", type_=Integer()), bindparam("remark", type_=Text()))

_SENT = text(
    f"UPDATE alert_deliveries SET status = 'sent', sent_at = now(), error = :remark WHERE {_MINE}"  # noqa: S608 all of it is above
).bindparams(*_TYPES)

_POSTPONE = text(
    f"UPDATE alert_deliveries SET due_at = now() + :pause, error = :remark WHERE {_MINE} AND {PENDING_DELIVERY}"  # noqa: S608 likewise
).bindparams(*_TYPES, bindparam("pause", type_=Interval()))
