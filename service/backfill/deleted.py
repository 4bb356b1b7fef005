"""Tickets that Zendesk deleted: their e-mails are marked, and our copies stay."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.backfill.record import Held
from service.errors import Permanent, Transient
from service.jobs import discovery
from service.jobs.discovery import Mark
from service.postgres.email_tables import DELETED_IN_ZENDESK
from service.resources import Resources
from service.zendesk.exports import next_page, read_deleted_tickets

MOST_PAGES = 100
# So many tickets that are no longer listed as deleted are asked for each hour.
MOST_ASKED = 100
RESERVE = 0.2

_PATH = "/api/v2/deleted_tickets.json"
_GONE = {404, 410}
_REFUSED = 403


async def read(res: Resources, held: Held) -> bool:
    """Mark the e-mails of deleted tickets, and of those that are no longer deleted or gone for good; return True.

    Raises as the client's `get` does.
    """
    listed, is_whole = await _mark_listed(res, held)
    known = await res.run(_marked)
    left = [ticket_id for ticket_id in known if ticket_id not in listed]
    for ticket_id in random.sample(left, min(len(left), MOST_ASKED)):
        try:
            state = await _state_of(res, ticket_id)
        except Transient as exc:
            if exc.code != "rate_limited":
                raise
            break  # the next hour asks for others: to begin again would read the list again
        # A list that was not read whole may still name the ticket: then only a ticket that is there tells something.
        if is_whole or state == "restored":
            await _mark(res, held, {ticket_id: state})
    return True


async def _state_of(res: Resources, ticket_id: str) -> Literal["restored", "permanently_deleted"]:
    """Ask for a ticket that is no longer listed as deleted; one that Zendesk refuses to the credentials is there.

    Each is asked for alone: an answer about many leaves out both those that are gone and those that are refused.
    """
    try:
        await res.zendesk.get(f"/api/v2/tickets/{ticket_id}.json", reserve=RESERVE)
    except Permanent as exc:
        if exc.answered in _GONE:
            return "permanently_deleted"
        if exc.answered != _REFUSED:
            raise
    return "restored"


async def _mark_listed(res: Resources, held: Held) -> tuple[set[str], bool]:
    """Mark the deleted tickets; return them, and whether these are all."""
    query = {"page[size]": "100"}
    listed: set[str] = set()
    for number in range(1, MOST_PAGES + 1):
        page = await res.zendesk.get(_PATH, query, reserve=RESERVE)
        found = await asyncio.to_thread(read_deleted_tickets, page)
        await _mark(res, held, dict.fromkeys(found, "deleted"))
        listed |= set(found)
        following = next_page(page, number)
        if following is None:
            return listed, True
        query = following
    return listed, False


async def _mark(res: Resources, held: Held, states: Mapping[str, str]) -> None:
    marks = [Mark(ticket_id, None, state) for ticket_id, state in states.items()]
    await res.run(partial(discovery.mark, account_id=held.account_id or "", marks=marks))


async def _marked(conn: AsyncConnection) -> Sequence[str]:
    """Return tickets that are marked as deleted, those marked first."""
    return [*await conn.scalars(_MARKED)]


_MARKED = text(f"""
SELECT zendesk_ticket_id FROM incoming_emails
WHERE {DELETED_IN_ZENDESK} AND zendesk_ticket_id ~ '^[0-9]{{1,30}}$'
GROUP BY zendesk_ticket_id ORDER BY max(zendesk_state_at) LIMIT 10000
""")  # noqa: S608 a constant of ours
