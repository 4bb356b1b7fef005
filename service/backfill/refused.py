"""Tickets whose comments Zendesk refuses to these credentials: recorded, and asked for again once a day."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, DateTime, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.listed import keys_of

# A refused ticket is asked for again after this time, by the next current search.
ASK_AGAIN = timedelta(days=1)
# One search asks for so many of them again, those that are due first.
MOST_DUE = 1_000
# So many tickets that were read before, and so many that are yet to read, tell whether a refusal is about one ticket or
# about the credentials.
MOST_OTHERS = 20
# They are found among so many of the newest messages: several may be of one ticket.
MOST_MESSAGES = 200


class Refusal(NamedTuple):
    """A ticket that Zendesk refuses, and since when its comments are not known."""

    ticket_id: str
    since: datetime
    code: str
    error: str


async def known(conn: AsyncConnection, account: str, ticket_ids: Sequence[str]) -> Mapping[str, datetime]:
    """Return which of these tickets were refused before, and since when their comments are not known."""
    rows = await conn.execute(_KNOWN, {"account": account, "tickets": list(ticket_ids)})
    return {row.ticket_id: row.since for row in rows}


async def due(conn: AsyncConnection, account: str) -> Mapping[str, datetime]:
    """Return the tickets to ask for again, and since when."""
    rows = await conn.execute(_DUE, {"account": account, "most": MOST_DUE})
    return {row.ticket_id: row.since for row in rows}


async def make_due(conn: AsyncConnection, account: str) -> None:
    """Let the next search ask for all refused tickets again."""
    await conn.execute(_MAKE_DUE, {"account": account})


async def save(
    conn: AsyncConnection, account: str, refused: Sequence[Refusal], settled: Sequence[str]
) -> None:
    """Record refused tickets, and forget those that are `settled`: their comments were read, or they are gone."""
    if settled:
        await conn.execute(_FORGET, {"account": account, "tickets": sorted(settled)})
    if refused:
        rows = [{"account": account, "again": ASK_AGAIN, **each._asdict()} for each in sorted(refused)]
        await conn.execute(_REFUSE, rows)


async def readable(
    conn: AsyncConnection, account: str, account_id: str | None, but: Sequence[str]
) -> Sequence[str]:
    """Return some tickets whose comments these or earlier credentials could read lately."""
    most = {"messages": MOST_MESSAGES, "most": MOST_OTHERS}
    given = {"account": account, "keys": keys_of(account_id), "but": list(but), **most}
    return [*await conn.scalars(_READABLE, given)]


_TICKETS = bindparam("tickets", type_=ARRAY(Text))
_KNOWN = text(
    "SELECT ticket_id, since FROM refused_tickets WHERE account = :account AND ticket_id = ANY (:tickets)"
).bindparams(_TICKETS)
_DUE = text("""
SELECT ticket_id, since FROM refused_tickets WHERE account = :account AND due_at <= now()
ORDER BY due_at, ticket_id LIMIT :most
""").bindparams(bindparam("most", type_=BigInteger()))
_MAKE_DUE = text("UPDATE refused_tickets SET due_at = now() WHERE account = :account AND due_at > now()")
_FORGET = text(
    "DELETE FROM refused_tickets WHERE account = :account AND ticket_id = ANY (:tickets)"
).bindparams(_TICKETS)
_REFUSE = text("""
INSERT INTO refused_tickets AS known (account, ticket_id, since, error_code, error, due_at)
VALUES (:account, :ticket_id, :since, :code, :error, now() + :again)
ON CONFLICT (account, ticket_id) DO UPDATE SET since = least(known.since, excluded.since),
    error_code = excluded.error_code, error = excluded.error, refused_last_at = now(), due_at = excluded.due_at
""").bindparams(bindparam("since", type_=DateTime(timezone=True)), bindparam("again", type_=Interval()))
_READABLE = text("""
SELECT zendesk_ticket_id FROM incoming_emails
WHERE id IN (SELECT email_id FROM messages ORDER BY email_id DESC LIMIT :messages)
    AND coalesce(account_id, '') = ANY (:keys) AND zendesk_ticket_id <> ALL (:but)
    AND coalesce(zendesk_state, '') NOT IN ('deleted', 'permanently_deleted')
    AND NOT EXISTS (SELECT FROM refused_tickets WHERE account = :account AND ticket_id = zendesk_ticket_id)
GROUP BY zendesk_ticket_id ORDER BY max(id) DESC LIMIT :most
""").bindparams(
    bindparam("keys", type_=ARRAY(Text)),
    bindparam("but", type_=ARRAY(Text)),
    *(bindparam(name, type_=BigInteger()) for name in ("messages", "most")),
)
