"""Which holds cover what is no e-mail yet: stored webhooks that nobody could use, and suspended e-mails."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Row, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody.mentions import Mentions
from service.postgres.held_emails import NamedFilter, filters_in_force, holds_on
from service.postgres.selection import StoredFilter

Held = dict[int, list[str]]


async def holds_on_webhooks(conn: AsyncConnection, webhooks: Sequence[Row[Any]]) -> Held:
    """Return the names of the holds in force on each of these stored webhooks that is held, by its id.

    Nobody knows the facts of such a body: a hold covers it if it mentions the hold's sender and ticket.
    """
    filters = await filters_in_force(conn) if webhooks else []

    def covers(wanted: StoredFilter, webhook: Row[Any]) -> bool:
        body = bytes(webhook.raw_body)
        asked = (Mentions(address=wanted.sender), Mentions(ticket=wanted.ticket))
        named = (each for each in asked if each.address or each.ticket)
        return _is_in_time(wanted, webhook.received_at) and all(each.found_in(body) for each in named)

    return await asyncio.to_thread(_held, filters, webhooks, covers)  # bodies may have megabytes


async def holds_on_suspended(conn: AsyncConnection, suspended_ids: Sequence[int]) -> Held:
    """Return the names of the holds in force on each of these suspended e-mails that is held, by its id.

    One that became an e-mail is a copy of it, and is held with it.
    """
    rows = (await conn.execute(_SUSPENDED, {"ids": list(suspended_ids)})).all()
    held = _held(await filters_in_force(conn) if rows else [], rows, _covers_suspended)
    became = {row.id: row.email_id for row in rows if row.email_id is not None}
    of_emails = await holds_on(conn, sorted({*became.values()}))
    for suspended_id, email_id in became.items():
        if names := of_emails.get(email_id):
            held[suspended_id] = list(dict.fromkeys([*held.get(suspended_id, ()), *names]))
    return held


def _held(
    filters: Sequence[NamedFilter],
    rows: Iterable[Row[Any]],
    covers: Callable[[StoredFilter, Row[Any]], bool],
) -> Held:
    found = {row.id: [each.name for each in filters if covers(each.wanted, row)] for row in rows}
    return {number: names for number, names in found.items() if names}


def _covers_suspended(wanted: StoredFilter, row: Row[Any]) -> bool:
    """Say whether a hold covers a suspended e-mail. An unknown sender matches; without a ticket, it is of none."""
    return (
        _is_in_time(wanted, row.created_at, row.found_at)
        and (wanted.ticket is None or wanted.ticket == row.ticket_id)
        and (wanted.sender is None or wanted.sender.lower() == (row.from_address or wanted.sender).lower())
    )


def _is_in_time(wanted: StoredFilter, *times: datetime | None) -> bool:
    """Say whether any of the known times is in the span of a filter."""
    after, before = wanted.received_after, wanted.received_before
    return any(
        each is not None and (after is None or each >= after) and (before is None or each < before)
        for each in times
    )


_SUSPENDED = text("""
SELECT id, email_id, ticket_id, from_address, created_at, found_at FROM suspended_emails
WHERE id = ANY (:ids) AND record_key <> ''  -- of a removed e-mail that Zendesk still lists, nothing is left to hold
""").bindparams(bindparam("ids", type_=ARRAY(BigInteger)))
