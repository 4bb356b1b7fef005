"""Zendesk's API: credentials that will end, and e-mails that wait because nothing can be asked."""

from datetime import datetime, timedelta

from sqlalchemy import Integer, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.finding import COUNT_CAP, Finding, clean, number
from service.config.settings import Settings
from service.formatting import duration
from service.zendesk.account import account_of, expected_end

# These use up no retry, so no e-mail ever fails of them: without an alert nobody would hear of it.
_CODES = ["rate_limited", "token_unavailable"]


def find_ending(settings: Settings) -> list[Finding]:
    """Find out whether the credentials of these settings have an end."""
    end = expected_end(account_of(settings))
    if end is None:
        return []
    when = end.when[0].upper() + end.when[1:]
    detail = (
        f"{when}, and {end.besides}.\nTo go on, {end.advice}. Without credentials no file can be fetched."
    )
    return [Finding("credentials", "", 1, when, detail)]


async def find_waiting(conn: AsyncConnection, limit: timedelta, now: datetime) -> list[Finding]:
    """Find e-mails that wait for longer than the limit until Zendesk's API can be asked."""
    rows = await conn.execute(_WAITING, {"limit": limit})
    return [
        Finding(
            "zendesk",
            code,
            count,
            f"E-mails wait for Zendesk's API ({code})",
            f"{number(count, 'e-mail')} cannot be completed, the oldest for {duration(now - since)}:"
            f" {clean(error or code)}.\nFor example e-mail {email_id}. `holdfast check` tells whether Zendesk answers.",
            email_id,
        )
        for code, count, since, email_id, error in rows
    ]


# The planner shall walk the index of errors: in the index of states, a large backlog has too many rows. A limit that it
# does not know and a state that is computed leave it no other index.
_WAITING = text("""
SELECT code, count(*), min(received_at), min(id), min(processing_error)
FROM unnest(:codes) AS every(code) CROSS JOIN LATERAL (
    SELECT id, received_at, processing_error FROM incoming_emails
    WHERE error_code = every.code AND processing_status || '' = 'queued' AND received_at < now() - :limit
    ORDER BY id LIMIT (SELECT :cap)
) AS waiting
GROUP BY code
""").bindparams(
    bindparam("codes", _CODES, ARRAY(Text())),
    bindparam("limit", type_=Interval()),
    bindparam("cap", COUNT_CAP, Integer()),
)
