"""Webhooks: none comes for an unusually long time, some wait in quarantine, or signatures are wrong."""

from datetime import datetime, timedelta

from sqlalchemy import Integer, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition, OpenAlerts, clean, clock, number
from service.alerts.record import Turn
from service.formatting import duration
from service.postgres.email_tables import IN_QUARANTINE
from service.zendesk.signature import SECRETS_LATE

# Older webhooks cause no alert.
RECENT = timedelta(days=1)
MAX_READ = 1000
MAX_CODES = 10
# Lengths of silence that are checked; the shortest is twice the change of daylight saving time.
HOURS = (2, 4, 8, 16, 32, 64, 128)


async def newest_arrival(conn: AsyncConnection) -> tuple[datetime | None, datetime]:
    """Return the time of the newest saved webhook, and the current time of the database."""
    newest, now = (await conn.execute(_NEWEST)).one()
    return newest, now


async def find_silence(
    conn: AsyncConnection, newest: datetime | None, now: datetime, limit: float | None, opened: OpenAlerts
) -> list[Condition]:
    """Report that no webhook came for more than `limit` seconds; without a limit, for an unusually long time.

    The condition then holds until a webhook comes, also during hours that are usually silent.
    """
    if newest is None:
        return []
    silence, since = now - newest, opened.get(("silence", ""))
    reason = None
    if since and newest <= since:
        reason = "None has come since."
    elif limit is not None:
        reason = (
            f"The limit is {duration(timedelta(seconds=limit))}." if silence.total_seconds() > limit else None
        )
    elif silence >= timedelta(hours=HOURS[0]) and (
        hours := await conn.scalar(_UNUSUAL, {"silence": silence})
    ):
        reason = (
            f"In the same {hours} hours of the last two weeks, some came in every"
            f" {duration(timedelta(hours=hours / 4))}."
        )
    if not reason:
        return []
    detail = (
        f"The last webhook came at {clock(newest)}. {reason}\n"
        "Check the webhook in Zendesk (Admin Center, Webhooks), and whether it can reach this service."
    )
    return [Condition("silence", "", 1, "No webhooks arrive", detail)]


async def find_quarantined(conn: AsyncConnection, opened: OpenAlerts) -> list[Condition]:
    """Report errors of webhooks that came within a day and wait in quarantine, among the newest ones."""
    open_codes = [key for cause, key in opened if cause == "quarantine"]
    rows = await conn.execute(_CODES, {"open": open_codes})
    return [_quarantined(code, count, newest_id) for code, count, newest_id in rows]


def _quarantined(code: str, count: int, newest_id: int) -> Condition:
    what = clean(code, 50) or "an unknown error"
    some = "" if count < MAX_READ else " or more"
    detail = (
        f"{number(count, 'webhook')}{some} of the last {RECENT.days * 24} hours could not be parsed ({what}),"
        f" and made no e-mail.\nFor example webhook {newest_id} in quarantine. If all fail like this, check the body"
        " of the webhook in Zendesk's trigger. Replay them once the cause is fixed,"
        " or dismiss them."
    )
    return Condition("quarantine", code, count, f"Webhooks wait in quarantine with {what}", detail)


def find_bad_signatures(turn: Turn, newest: datetime | None, limit: int) -> list[Condition]:
    """Report `limit` or more bad signatures in a row, unless a webhook with a good one came since.

    Only webhooks with a good signature are saved, so `newest` is the time of the last one.
    """
    bad_at = turn.bad_signature_at
    if not bad_at or turn.bad_signatures < limit or (newest and newest > bad_at):
        return []
    code = clean(turn.bad_signature_code or "", 50)
    detail = (
        f"{number(turn.bad_signatures, 'webhook')} in a row had no valid signature ({code}), the last at {clock(bad_at)}.\n"
        f"{_LATE if code == SECRETS_LATE else _WRONG}"
    )
    return [Condition("signatures", "", turn.bad_signatures, "Webhooks have no valid signature", detail)]


_WRONG = "Run `holdfast connect`, or compare ZENDESK_WEBHOOK_SECRETS with the signing secret of the webhook in Zendesk."
_LATE = (
    "Whether they are Zendesk's is not known, as its signing secrets cannot be read: `holdfast check` tells why. Zendesk"
    " sends each one again, but only a few times."
)
_NEWEST = text("""
SELECT greatest(
    (SELECT max(newest.received_at) FROM unnest(
        ARRAY['received', 'queued', 'processing', 'completed', 'failed']
    ) AS every(status) CROSS JOIN LATERAL (
        SELECT received_at FROM incoming_emails WHERE processing_status = every.status AND origin = 'webhook'
        ORDER BY received_at DESC LIMIT 1
    ) AS newest),
    (SELECT received_at FROM announcements ORDER BY id DESC LIMIT 1),
    (SELECT received_at FROM quarantined_webhooks ORDER BY id DESC LIMIT 1)
), now()
""")

# The longest period until now that had webhooks in each of its quarters a week and two weeks ago. So nights, weekends,
# accounts with few e-mails and new installations cause no alert.
_UNUSUAL = text(f"""
SELECT max(hours) FROM unnest(ARRAY[{", ".join(map(str, HOURS))}]) AS hours
WHERE hours * interval '1 hour' <= :silence AND NOT EXISTS (
    SELECT FROM generate_series(1, 2) AS week, generate_series(1, 4) AS quarter, LATERAL (
        SELECT now() - week * interval '7 days' - quarter * hours * interval '15 minutes' AS begin
    ) AS past
    WHERE NOT EXISTS (
        SELECT FROM unnest(
            ARRAY['received', 'queued', 'processing', 'completed', 'failed']
        ) AS every(status), LATERAL (
            SELECT FROM incoming_emails
            WHERE processing_status = every.status AND received_at >= past.begin
                AND received_at < past.begin + hours * interval '15 minutes'
            ORDER BY received_at LIMIT 1
        ) AS any_of_them
    )
)
""").bindparams(bindparam("silence", type_=Interval()))  # noqa: S608 the numbers are ours

# Errors with an open alert come first, or their alerts would be resolved. The limit in a subquery is unknown to the
# planner, so it scans the index in order.
_CODES = text(f"""
SELECT error_code, count(*), max(id) FROM (
    SELECT id, received_at, error_code FROM quarantined_webhooks
    WHERE {IN_QUARANTINE} ORDER BY id DESC LIMIT (SELECT :most)
) AS newest
WHERE received_at > now() - :recent
GROUP BY error_code ORDER BY error_code = ANY(:open) DESC, count(*) DESC LIMIT :codes
""").bindparams(  # noqa: S608 words of ours
    bindparam("open", type_=ARRAY(Text())),
    bindparam("most", MAX_READ, Integer()),
    bindparam("recent", RECENT, Interval()),
    bindparam("codes", MAX_CODES, Integer()),
)
