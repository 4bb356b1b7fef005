"""Zendesk's API: credentials that will expire, and e-mails that wait because the API cannot be used."""

from datetime import datetime, timedelta

from sqlalchemy import Integer, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import COUNT_CAP, Condition, clean, number
from service.config.settings import Settings
from service.formatting import duration
from service.zendesk.account import account_of, expected_end

# These errors use up no retry, so no e-mail fails: an alert is the only sign of them.
_CODES = ["rate_limited", "token_unavailable"]


def find_ending(settings: Settings) -> list[Condition]:
    """Report credentials with a known end."""
    end = expected_end(account_of(settings))
    if end is None:
        return []
    when = end.when[0].upper() + end.when[1:]
    detail = (
        f"{when}, and {end.besides}.\nTo go on, {end.advice}. Without credentials no file can be fetched."
    )
    return [Condition("credentials", "", 1, when, detail)]


async def find_waiting(conn: AsyncConnection, limit: timedelta, now: datetime) -> list[Condition]:
    """Report e-mails that wait longer than the limit for Zendesk's API."""
    rows = await conn.execute(_WAITING, {"limit": limit})
    return [
        Condition(
            "zendesk",
            code,
            count,
            f"E-mails wait for Zendesk's API ({code})",
            f"{number(count, 'e-mail')} cannot be completed, the oldest for {duration(now - since)}:"
            f" {clean(error or code)}.\nFor example e-mail {email_id}. `holdfast check` tests the connection to Zendesk.",
            email_id,
        )
        for code, count, since, email_id, error in rows
    ]


# The planner must use the index of errors, because a large backlog has too many rows in the index of states. The
# limit in a subquery and the computed state leave it no other index.
_WAITING = text("""
SELECT code, count(*), min(received_at), min(id), min(processing_error)
FROM unnest(:codes) AS every(code) CROSS JOIN LATERAL (
    SELECT id, received_at, processing_error FROM incoming_emails
    WHERE error_code = every.code AND processing_status || '' = 'queued' AND received_at < now() - :limit
        AND origin <> 'backfill'  -- these leave calls to others, and wait for it
    ORDER BY id LIMIT (SELECT :cap)
) AS waiting
GROUP BY code
""").bindparams(
    bindparam("codes", _CODES, ARRAY(Text())),
    bindparam("limit", type_=Interval()),
    bindparam("cap", COUNT_CAP, Integer()),
)
