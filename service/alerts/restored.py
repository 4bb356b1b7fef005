"""Detect that Postgres lost e-mails: after a restore from a dump, a failover to a lagging standby, or a reset.

Redis survives such a restore and keeps a mark: id and time of the newest e-mail. A sequence never repeats an id, so
Postgres knows the id of the mark even if that e-mail was deleted. Without a mark, no alert is possible.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from redis.exceptions import RedisError
from sqlalchemy import BigInteger, DateTime, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition, OpenAlerts, clock
from service.resources import Resources

CAUSE, KEY = "reconciliation", "restored"
# The alert stays open for a day. The mark moves on at once, so a second restore is detected too.
SHOWN = timedelta(days=1)
REDIS_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class NewestEmail:
    """Id and time of receipt of the newest e-mail."""

    id: int
    at: datetime


async def read_mark(res: Resources) -> NewestEmail | None:
    """Return the mark; None without one, or if Redis is down. Call this before any read of Postgres."""
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            shown = json.loads(await res.redis.get(_name(res)) or b"null")
        return shown and NewestEmail(int(shown["id"]), datetime.fromisoformat(shown["at"]))
    except (RedisError, OSError, TimeoutError, ValueError, TypeError, KeyError) as exc:
        log.debug("mark_not_read", error=type(exc).__name__)
        return None


async def set_mark(res: Resources, mark: NewestEmail) -> None:
    """Set the mark; while Redis is down, the old one stays."""
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            await res.redis.set(_name(res), json.dumps({"id": mark.id, "at": mark.at.isoformat()}))
    except (RedisError, OSError, TimeoutError) as exc:
        log.debug("mark_not_set", error=type(exc).__name__)


async def newest(conn: AsyncConnection) -> NewestEmail | None:
    """Return the newest e-mail in Postgres."""
    row = (await conn.execute(_NEWEST)).one_or_none()
    return NewestEmail(*row) if row else None


async def find_older(conn: AsyncConnection, mark: NewestEmail | None) -> Condition | None:
    """Report that Postgres does not know the e-mail of the mark."""
    if mark is None:
        return None
    is_older, since = (await conn.execute(_OLDER, {"id": mark.id, "at": mark.at})).one()
    if not is_older:
        return None
    begin = f"between {clock(since)} and" if since else "before"
    detail = (
        f"E-mail {mark.id}, received at {clock(mark.at)}, is gone. Postgres was restored from an older dump, failed"
        f" over to a lagging standby, or was emptied. E-mails received {begin} {clock(mark.at)} are missing.\n"
        "Restore a newer state if there is one. If not, have Zendesk send the tickets of that time again.\n"
        "`holdfast reconcile` lists their objects in the storage (`unclaimed`) and their documents in the target.\n"
        "This alert cannot be acknowledged; it ends by itself after one day."
    )
    return Condition(
        CAUSE, KEY, 1, f"Postgres lost e-mails: those received {begin} {clock(mark.at)} are missing", detail
    )


async def find_open(conn: AsyncConnection, opened: OpenAlerts) -> Sequence[Condition]:
    """Return the condition again while its alert is less than a day old, so that it stays open."""
    if (CAUSE, KEY) not in opened:
        return []
    rows = await conn.execute(_OPEN, {"cause": CAUSE, "key": KEY, "shown": SHOWN})
    return [Condition(CAUSE, KEY, count, summary, detail) for count, summary, detail in rows]


def _name(res: Resources) -> str:
    """Return the key of the mark, by account and storage: other installations may share this Redis."""
    place = f"{res.account.url} {res.settings.storage_url}"
    return f"holdfast:newest:{hashlib.sha256(place.encode()).hexdigest()[:16]}"


_NEWEST = text("""
SELECT id, received_at FROM incoming_emails WHERE received_at IS NOT NULL ORDER BY id DESC LIMIT 1
""")

# Postgres is older if another e-mail has the id of the mark, or if the sequence has not reached that id. A table
# that was taken over may have ids beyond its sequence. Without the right to read the sequence, a missing e-mail
# counts as deleted.
_OLDER = text("""
WITH sequence AS (
    SELECT pg_get_serial_sequence('incoming_emails', 'id')::regclass AS name
), given AS (
    SELECT greatest(pg_sequence_last_value(name), (SELECT max(id) FROM incoming_emails), 0) AS last
    FROM sequence WHERE has_sequence_privilege(name, 'SELECT')
), older AS (
    SELECT coalesce((SELECT received_at <> :at FROM incoming_emails WHERE id = :id), false)
        OR coalesce((SELECT last < :id FROM given), false) AS it_is
)
SELECT it_is, CASE WHEN it_is THEN (
    SELECT max(newest.received_at) FROM unnest(
        ARRAY['received', 'queued', 'processing', 'completed', 'failed']
    ) AS every(status) CROSS JOIN LATERAL (
        SELECT received_at FROM incoming_emails WHERE processing_status = every.status AND received_at < :at
        ORDER BY received_at DESC LIMIT 1
    ) AS newest
) END
FROM older
""").bindparams(bindparam("id", type_=BigInteger()), bindparam("at", type_=DateTime(timezone=True)))

_OPEN = text("""
SELECT count, summary, detail FROM alerts
WHERE cause = :cause AND key = :key AND resolved_at IS NULL AND opened_at > now() - :shown
""").bindparams(bindparam("shown", type_=Interval()))
