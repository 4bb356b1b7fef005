"""Webhooks: none comes for an unusually long time, some wait in quarantine, or signatures are wrong."""

from datetime import datetime, timedelta

from sqlalchemy import Integer, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition, OpenAlerts, clean, clock, duration, number
from service.alerts.record import Turn

# What came longer ago is no news: who left it there knows of it.
RECENT = timedelta(days=1)
MOST_READ = 1000
MOST_CODES = 10
# Silences that are looked at, of any hour until now; the least is twice what a change of the clocks can make.
HOURS = (2, 4, 8, 16, 32, 64, 128)


async def newest_arrival(conn: AsyncConnection) -> tuple[datetime | None, datetime]:
    """Return when the newest webhook came that is on record, and what time it is now."""
    newest, now = (await conn.execute(_NEWEST)).one()
    return newest, now


async def find_silence(
    conn: AsyncConnection, newest: datetime | None, now: datetime, limit: float | None, opened: OpenAlerts
) -> list[Condition]:
    """Find out whether nothing has come for more than `limit` seconds, or else for longer than is usual.

    Once it was found it stays, also into hours that are usually silent, until a webhook comes.
    """
    if newest is None:
        return []
    silence, since = now - newest, opened.get(("silence", ""))
    why = None
    if since and newest <= since:
        why = "None has come since."
    elif limit is not None:
        why = (
            f"The limit is {duration(timedelta(seconds=limit))}." if silence.total_seconds() > limit else None
        )
    elif silence >= timedelta(hours=HOURS[0]) and (
        hours := await conn.scalar(_UNUSUAL, {"silence": silence})
    ):
        why = (
            f"In the same {hours} hours a week and two weeks ago, some came in every"
            f" {duration(timedelta(hours=hours / 4))}."
        )
    if not why:
        return []
    detail = (
        f"The last webhook came at {clock(newest)}. {why}\n"
        "Look at the webhook in Zendesk (Admin Center, Webhooks), and whether it can reach this service."
    )
    return [Condition("silence", "", 1, "No webhooks come", detail)]


async def find_quarantined(conn: AsyncConnection, opened: OpenAlerts) -> list[Condition]:
    """Find the errors for which webhooks of the last day wait in quarantine, among the newest that wait."""
    open_codes = [key for cause, key in opened if cause == "quarantine"]
    rows = await conn.execute(_CODES, {"open": open_codes})
    return [_quarantined(code, count, newest_id) for code, count, newest_id in rows]


def _quarantined(code: str, count: int, newest_id: int) -> Condition:
    what = clean(code, 50) or "an unknown error"
    some = "" if count < MOST_READ else " or more"
    detail = (
        f"{number(count, 'webhook')}{some} of the last {RECENT.days * 24} hours could not be read ({what}),"
        f" and made no e-mail.\nFor example webhook {newest_id} in quarantine. If all are so, look at the body"
        " of the webhook in Zendesk's trigger. Replay them once they can be read."
    )
    return Condition("quarantine", code, count, f"Webhooks wait in quarantine with {what}", detail)


def find_bad_signatures(turn: Turn, newest: datetime | None, limit: int) -> list[Condition]:
    """Report `limit` or more bad signatures in a row, unless a webhook with a good one came since.

    Only webhooks with a good signature are saved, so `newest` is the time of the last one.
    """
    bad_at = turn.bad_signature_at
    if not bad_at or turn.bad_signatures < limit or (newest and newest > bad_at):
        return []
    detail = (
        f"{number(turn.bad_signatures, 'webhook')} in a row had no valid signature"
        f" ({clean(turn.bad_signature_code or '', 50)}), the last at {clock(bad_at)}.\n"
        "Compare ZENDESK_WEBHOOK_SECRETS with the signing secret of the webhook in Zendesk."
    )
    return [Condition("signatures", "", turn.bad_signatures, "Webhooks have no valid signature", detail)]


_NEWEST = text("""
SELECT greatest(
    (SELECT max(newest.received_at) FROM unnest(
        ARRAY['received', 'queued', 'processing', 'completed', 'failed']
    ) AS every(status) CROSS JOIN LATERAL (
        SELECT received_at FROM incoming_emails WHERE processing_status = every.status
        ORDER BY received_at DESC LIMIT 1
    ) AS newest),
    (SELECT received_at FROM quarantined_webhooks ORDER BY id DESC LIMIT 1)
), now()
""")

# The longest time until now of which each quarter brought something a week ago, and two weeks ago. Nights and weekends
# are silent there too, who has few e-mails has silent quarters, and who began last week has nothing there.
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

# Who has an alert keeps it, or it would be announced as over. A limit that the planner does not know makes it walk
# the index, whatever it believes to be there.
_CODES = text("""
SELECT error_code, count(*), max(id) FROM (
    SELECT id, received_at, error_code FROM quarantined_webhooks
    WHERE replayed_at IS NULL ORDER BY id DESC LIMIT (SELECT :most)
) AS newest
WHERE received_at > now() - :recent
GROUP BY error_code ORDER BY error_code = ANY(:open) DESC, count(*) DESC LIMIT :codes
""").bindparams(
    bindparam("open", type_=ARRAY(Text())),
    bindparam("most", MOST_READ, Integer()),
    bindparam("recent", RECENT, Interval()),
    bindparam("codes", MOST_CODES, Integer()),
)
