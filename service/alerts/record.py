"""The table of alerts: take turns to look, open alerts, resolve them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition, OpenAlerts
from service.postgres.rows import arrays_of

TURN_PAUSE = timedelta(seconds=15)
# A condition must be absent for this long to be resolved; twice as long each time it came back within a day.
QUIET = timedelta(minutes=5)
MAX_QUIET = timedelta(hours=6)
# A delivery is given up after this time.
STALE = timedelta(days=1)


@dataclass(frozen=True)
class Turn:
    """A process's turn to look; `number` is the fencing token."""

    number: int
    known_id: int  # the newest e-mail at the start of the turn before
    bad_signatures: int
    bad_signature_code: str | None
    bad_signature_at: datetime | None


async def begin(conn: AsyncConnection) -> Turn | None:
    """Take a turn to look; None if the last turn began less than TURN_PAUSE ago."""
    row = (await conn.execute(_BEGIN)).one_or_none()
    return Turn(*row) if row else None


async def open_alerts(conn: AsyncConnection) -> OpenAlerts:
    """Return the open alerts."""
    rows = await conn.execute(text("SELECT cause, key, opened_at FROM alerts WHERE resolved_at IS NULL"))
    return {(cause, key): opened_at for cause, key, opened_at in rows}


async def save_conditions(
    conn: AsyncConnection, turn: Turn, conditions: Sequence[Condition], channels: Sequence[str]
) -> list[str]:
    """Open an alert for each new condition, and update open alerts; return the causes of new alerts.

    Each has a delivery on each channel: an open alert gets one on a channel that was set up since. Does nothing if another
    process has taken the next turn.
    """
    columns = ("cause", "key", "count", "summary", "detail", "email_id")
    rows = [
        (each.cause, each.key, each.count, each.summary, each.detail, each.email_id) for each in conditions
    ]
    given = {**arrays_of(columns, rows), "channels": list(channels), "pass": turn.number}
    return [*await conn.scalars(_NOTE, given)]


async def resolve(conn: AsyncConnection, turn: Turn) -> list[str]:
    """Resolve alerts whose conditions were absent for long enough, and add deliveries; return the causes."""
    return [*await conn.scalars(_RESOLVE, {"pass": turn.number})]


async def give_up(conn: AsyncConnection) -> list[str]:
    """Give up deliveries that are older than STALE; return their channels."""
    return [*await conn.scalars(_GIVE_UP)]


async def save_bad_signatures(conn: AsyncConnection, count: int, code: str, ago: timedelta) -> None:
    """Save how many signatures in a row were wrong in this process, and how long ago the last one was."""
    await conn.execute(_BAD_SIGNATURES, {"count": count, "code": code, "ago": ago})


_BEGIN = text("""
INSERT INTO alert_watch AS watch (id, pass_number, next_at, newest_id)
VALUES (1, 1, now() + :pause, coalesce((SELECT max(id) FROM incoming_emails), 0))
ON CONFLICT (id) DO UPDATE SET
    pass_number = watch.pass_number + 1, next_at = excluded.next_at,
    known_id = watch.newest_id, newest_id = excluded.newest_id
WHERE watch.next_at <= now()
RETURNING pass_number, known_id, bad_signatures, bad_signature_code, bad_signature_at
""").bindparams(bindparam("pause", TURN_PAUSE, Interval()))

_NOTE = text("""
WITH turn AS (
    SELECT FROM alert_watch WHERE pass_number = :pass FOR SHARE
), seen AS (
    INSERT INTO alerts (cause, key, count, summary, detail, email_id)
    SELECT * FROM unnest(:every_cause, :every_key, :every_count, :every_summary, :every_detail, :every_email_id)
    WHERE EXISTS (SELECT FROM turn)
    ON CONFLICT (cause, key) WHERE resolved_at IS NULL DO UPDATE SET
        seen_at = now(), count = greatest(alerts.count, excluded.count),
        summary = excluded.summary, detail = excluded.detail, email_id = excluded.email_id
    RETURNING id, cause, opened_at = now() AS is_new
), deliveries AS (
    INSERT INTO alert_deliveries (alert_id, news, channel)
    SELECT id, 'opened', channel FROM seen, unnest(:channels) AS channel
    ON CONFLICT DO NOTHING
)
SELECT cause FROM seen WHERE is_new
""").bindparams(
    bindparam("pass", type_=BigInteger()),
    bindparam("channels", type_=ARRAY(Text())),
    *(bindparam(f"every_{name}", type_=ARRAY(Text())) for name in ("cause", "key", "summary", "detail")),
    *(bindparam(f"every_{name}", type_=ARRAY(BigInteger())) for name in ("count", "email_id")),
)

_RESOLVE = text("""
WITH turn AS (
    SELECT FROM alert_watch WHERE pass_number = :pass FOR SHARE
), over AS (
    UPDATE alerts SET resolved_at = now()
    WHERE resolved_at IS NULL AND EXISTS (SELECT FROM turn)
        AND seen_at < now() - least(:most_quiet, :quiet * power(2, (
            SELECT count(*) FROM alerts AS before
            WHERE before.cause = alerts.cause AND before.key = alerts.key
                AND before.opened_at > now() - interval '1 day' AND before.opened_at < alerts.opened_at
        )))
    RETURNING id, cause
), deliveries AS (
    INSERT INTO alert_deliveries (alert_id, news, channel)
    SELECT over.id, 'resolved', delivery.channel FROM over
    JOIN alert_deliveries AS delivery ON delivery.alert_id = over.id
    WHERE delivery.news = 'opened' AND delivery.status <> 'failed'
)
SELECT cause FROM over
""").bindparams(
    bindparam("pass", type_=BigInteger()),
    bindparam("quiet", QUIET, Interval()),
    bindparam("most_quiet", MAX_QUIET, Interval()),
)

_GIVE_UP = text("""
UPDATE alert_deliveries SET status = 'failed', error = coalesce(error, 'no process sent it')
WHERE status = 'pending' AND created_at < now() - :stale
RETURNING channel
""").bindparams(bindparam("stale", STALE, Interval()))

_BAD_SIGNATURES = text("""
INSERT INTO alert_watch (id, bad_signatures, bad_signature_code, bad_signature_at)
VALUES (1, :count, :code, now() - :ago)
ON CONFLICT (id) DO UPDATE SET
    bad_signatures = excluded.bad_signatures, bad_signature_code = excluded.bad_signature_code,
    bad_signature_at = excluded.bad_signature_at
""").bindparams(bindparam("count", type_=BigInteger()), bindparam("ago", type_=Interval()))
