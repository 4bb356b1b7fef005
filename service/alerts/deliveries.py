"""Deliveries on record: taken by one process for the length of a lease, and what became of each."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Integer, Interval, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.alert_tables import PENDING_DELIVERY

# Longer than sending may take, and than it is tried to note what became of it.
LEASE = timedelta(seconds=120)
PAUSE = timedelta(seconds=15)
MOST_PAUSE = timedelta(minutes=10)


@dataclass(frozen=True)
class Delivery:
    """News of an alert that this process is to send; `attempt` is the fence."""

    alert_id: int
    news: str
    channel: str
    attempt: int
    at: datetime  # of what is told
    cause: str
    key: str
    count: int
    summary: str
    detail: str
    email_id: int | None
    opened_at: datetime
    resolved_at: datetime | None


async def take(conn: AsyncConnection, channel: str) -> Delivery | None:
    """Take what has been due for longest on a channel, if there is something.

    That a thing is over is told after that it began.
    """
    row = (await conn.execute(_TAKE, {"channel": channel})).one_or_none()
    return Delivery(*row) if row else None


async def note_sent(conn: AsyncConnection, delivery: Delivery, remark: str | None) -> None:
    """Note that it was sent, unless somebody else has taken it since, who notes the same."""
    await conn.execute(_SENT, {**_names(delivery), "remark": remark})


async def put_off(conn: AsyncConnection, delivery: Delivery, error: str, pause: timedelta) -> None:
    """Make it due again after a pause, likewise."""
    await conn.execute(_PUT_OFF, {**_names(delivery), "remark": error, "pause": pause})


def pause_after(attempt: int, asked: timedelta | None) -> timedelta:
    """Say how long to wait: as long as was asked for, else twice as long each time, within bounds."""
    return min(asked or PAUSE * 2 ** min(attempt - 1, 10), MOST_PAUSE)


def _names(delivery: Delivery) -> dict[str, object]:
    return {name: getattr(delivery, name) for name in ("alert_id", "news", "channel", "attempt")}


_TAKE = text("""
WITH due AS (
    SELECT alert_id, news, channel FROM alert_deliveries AS delivery
    WHERE status = 'pending' AND channel = :channel AND due_at <= now() AND NOT EXISTS (
        SELECT FROM alert_deliveries AS before
        WHERE delivery.news = 'resolved' AND before.news = 'opened' AND before.status = 'pending'
            AND before.alert_id = delivery.alert_id AND before.channel = delivery.channel
    )
    ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE alert_deliveries AS delivery SET attempts = attempts + 1, due_at = now() + :lease
    FROM due
    WHERE (delivery.alert_id, delivery.news, delivery.channel) = (due.alert_id, due.news, due.channel)
    RETURNING delivery.alert_id, delivery.news, delivery.channel, delivery.attempts, delivery.created_at
)
SELECT taken.*, alert.cause, alert.key, alert.count, alert.summary, alert.detail, alert.email_id,
    alert.opened_at, alert.resolved_at
FROM taken JOIN alerts AS alert ON alert.id = taken.alert_id
""").bindparams(bindparam("channel", type_=Text()), bindparam("lease", LEASE, Interval()))

_MINE = "alert_id = :alert_id AND news = :news AND channel = :channel AND attempts = :attempt"
_TYPES = (bindparam("attempt", type_=Integer()), bindparam("remark", type_=Text()))

_SENT = text(
    f"UPDATE alert_deliveries SET status = 'sent', sent_at = now(), error = :remark WHERE {_MINE}"  # noqa: S608 all of it is above
).bindparams(*_TYPES)

_PUT_OFF = text(
    f"UPDATE alert_deliveries SET due_at = now() + :pause, error = :remark WHERE {_MINE} AND {PENDING_DELIVERY}"  # noqa: S608 likewise
).bindparams(*_TYPES, bindparam("pause", type_=Interval()))
