"""Webhooks that could not be read: one alert for each reason; a broken trigger puts every e-mail there."""

from datetime import timedelta

from sqlalchemy import Integer, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.finding import Finding, Open, clean, number

# What came longer ago is no news: who left it there knows of it.
RECENT = timedelta(days=1)
MOST_READ = 1000
MOST_CODES = 10


async def find(conn: AsyncConnection, opened: Open) -> list[Finding]:
    """Find the errors for which webhooks of the last day wait in quarantine, among the newest that wait."""
    open_codes = [key for cause, key in opened if cause == "quarantine"]
    rows = await conn.execute(_CODES, {"open": open_codes})
    return [_finding(code, count, newest_id) for code, count, newest_id in rows]


def _finding(code: str, count: int, newest_id: int) -> Finding:
    what = clean(code, 50) or "an unknown error"
    some = "" if count < MOST_READ else " or more"
    detail = (
        f"{number(count, 'webhook')}{some} of the last {RECENT.days * 24} hours could not be read ({what}),"
        f" and made no e-mail.\nFor example webhook {newest_id} in quarantine. If all are so, look at the body"
        " of the webhook in Zendesk's trigger. Replay them once they can be read."
    )
    return Finding("quarantine", code, count, f"Webhooks wait in quarantine with {what}", detail)


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
