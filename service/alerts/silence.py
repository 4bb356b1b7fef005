"""Silence: no webhook came for longer than is usual at these hours of this weekday."""

from datetime import datetime, timedelta

from sqlalchemy import Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.finding import Finding, Open, clock
from service.formatting import duration

# Silences that are looked at, of any hour until now; the least is twice what a change of the clocks can make.
HOURS = (2, 4, 8, 16, 32, 64, 128)


async def newest_arrival(conn: AsyncConnection) -> tuple[datetime | None, datetime]:
    """Return when the newest webhook came that is on record, and what time it is now."""
    newest, now = (await conn.execute(_NEWEST)).one()
    return newest, now


async def find(
    conn: AsyncConnection, newest: datetime | None, now: datetime, limit: float | None, opened: Open
) -> list[Finding]:
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
    return [Finding("silence", "", 1, "No webhooks come", detail)]


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
