"""Tickets that are safe to delete in Zendesk: all their e-mails are kept, verified and synced."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from service.backfill.legs import OVERLAP
from service.errors import Rejected, Transient
from service.postgres.listed import EMAIL_OF, FRESH, STATES, keys_of, statement
from service.postgres.reconciliation_tables import OPEN_FINDING
from service.queries.views import View
from service.resources import Resources
from service.zendesk.messages import MOST_TICKETS, TicketTimes, read_ticket_times
from service.zendesk.rate_limit import key_of

# Comments of one step. A ticket of Zendesk has at most 5,000 comments, so a step has at least one whole ticket.
STEP = 6_000
# A pause that the budget or Zendesk asks for, where it names none; and the most pauses in a row.
PAUSE = timedelta(seconds=10)
MOST_PAUSES = 30
# The share of the budget of calls that is left to the searches and to captures.
RESERVE = 0.5

Reason = Literal["not_read", "not_kept", "changed", "not_synced", "not_verified", "gone", "older", "updated"]


class DeletableView(View):
    """A ticket that is safe to delete in Zendesk, as far as its e-mails are concerned."""

    ticket_id: str
    emails: int
    files: int
    bytes: int = Field(description="The size of the files, which deleting the ticket frees in Zendesk")
    first_at: datetime = Field(description="When the first and the last e-mail were made")
    last_at: datetime
    verified: bool = Field(description="Whether a verification has read all its files and records since")


@dataclass
class LeftOut:
    """The tickets that are not safe to delete, by the first reason."""

    reasons: Counter[Reason] = field(default_factory=Counter)


async def deletable(
    res: Resources, left_out: LeftOut, *, before: datetime | None = None, unverified: bool = False
) -> AsyncIterator[DeletableView]:
    """Yield the tickets that are safe to delete; all others are counted in `left_out`.

    Zendesk is asked for each such ticket, a hundred in a call: one that was made before the search began may have e-mails
    that nobody knows of here, and one that changed since the search may have new ones. Raises Rejected (409) where the
    account was not searched, or cannot be asked.
    """
    source = await _source(res)
    given = {
        "account": source["account"],
        "keys": keys_of(source["account_id"]),
        "has_target": bool(res.settings.sync_url),
        "before": before,
        **(await res.run(verified)),
    }
    after: str | None = ""
    while after is not None:
        rows, after = await res.run(partial(next_tickets, given={**given, "after_ticket": after}))
        found = _sorted_out(rows, left_out, unverified=unverified)
        for start in range(0, len(found), MOST_TICKETS):
            for view in await _confirmed(res, found[start : start + MOST_TICKETS], source, left_out):
                yield view


def _sorted_out(rows: Sequence[RowMapping], left_out: LeftOut, *, unverified: bool) -> Sequence[RowMapping]:
    """Return the tickets that may be safe, and count the others."""
    found = []
    for row in rows:
        if (reason := row["reason"]) is None and not (row["verified"] or unverified):
            reason = "not_verified"
        if reason is None:
            found.append(row)
        elif reason != "later":
            left_out.reasons[reason] += 1
    return found


async def _source(res: Resources) -> RowMapping:
    url = res.account.url
    account = key_of(url) if url else ""
    row = (await res.run(lambda conn: conn.execute(_SOURCE, {"account": account}))).mappings().one_or_none()
    if row is None or row["complete_since"] is None or row["watermark"] is None:
        raise Rejected(409, "not_searched", "Zendesk was not searched yet: nothing is known to be complete.")
    if not res.zendesk.has_login:
        raise Rejected(409, "not_searched", "There are no credentials for Zendesk's API to ask for tickets.")
    return row


async def verified(conn: AsyncConnection) -> Mapping[str, datetime | None]:
    """Return when the newest whole verification began, and the newest one of recent e-mails with its start."""
    return dict((await conn.execute(_VERIFIED)).mappings().one())


async def next_tickets(
    conn: AsyncConnection, given: Mapping[str, Any]
) -> tuple[Sequence[RowMapping], str | None]:
    """Return the tickets of the next step, and the last of them; None at the end."""
    last: str | None = await conn.scalar(_LAST, given)
    if last == given["after_ticket"]:  # one ticket with more comments than Zendesk allows
        last = await conn.scalar(_FOLLOWING, given)
    rows = (await conn.execute(_TICKETS, {**given, "last_ticket": last})).mappings().all()
    return rows, last


async def _confirmed(
    res: Resources, rows: Sequence[RowMapping], source: RowMapping, left_out: LeftOut
) -> Sequence[DeletableView]:
    """Keep the tickets that Zendesk still has as they were searched."""
    times = await _times(res, [row["ticket_id"] for row in rows])
    confirmed = []
    for row in rows:
        if reason := _reason(times.get(row["ticket_id"]), source):
            left_out.reasons[reason] += 1
        else:
            confirmed.append(DeletableView.model_validate(row))
    return confirmed


def _reason(times: TicketTimes | None, source: RowMapping) -> Reason | None:
    if times is None:
        return "gone"
    if times.created_at < source["complete_since"]:
        return "older"
    # The search begins so long before the watermark: a later change may be unknown.
    return "updated" if times.updated_at >= source["watermark"] - OVERLAP else None


async def _times(res: Resources, ticket_ids: Sequence[str]) -> Mapping[str, TicketTimes]:
    """Ask for tickets; wait while the budget of calls is used up."""
    asked = [ticket_id for ticket_id in ticket_ids if ticket_id.isascii() and ticket_id.isdigit()]
    if not asked:
        return {}
    for attempt in range(MOST_PAUSES):
        try:
            page = await res.zendesk.get(_MANY, {"ids": ",".join(asked)}, reserve=RESERVE)
            return read_ticket_times(page)
        except Transient as exc:
            if exc.code != "rate_limited" or attempt == MOST_PAUSES - 1:
                raise
            await asyncio.sleep((exc.retry_after or PAUSE).total_seconds())
    return {}


_MANY = "/api/v2/tickets/show_many.json"
_SOURCE = statement(
    "SELECT account, account_id, complete_since, watermark FROM sources WHERE account = :account"
)
# What was stored before a verification began was read by it.
_VERIFIED = statement("""
SELECT
    (SELECT started_at FROM reconciliations WHERE kind = 'verify' AND status = 'done' AND since IS NULL
        ORDER BY id DESC LIMIT 1) AS all_at,
    part.started_at AS part_at, part.since AS part_since
FROM (SELECT 1) AS one LEFT JOIN (
    SELECT started_at, since FROM reconciliations
    WHERE kind = 'verify' AND status = 'done' AND since IS NOT NULL ORDER BY id DESC LIMIT 1
) AS part ON true
""")
_COMMENTS = "FROM source_emails WHERE account = :account AND ticket_id > :after_ticket"
# The ticket before the one in which a step ends: that one may have more comments. Null where the step is the last one.
_LAST = statement(f"""
SELECT coalesce(
    (
        SELECT ticket_id {_COMMENTS} AND ticket_id < following.ticket_id ORDER BY ticket_id DESC LIMIT 1
    ), :after_ticket
)
FROM (SELECT ticket_id {_COMMENTS} ORDER BY ticket_id, comment_id OFFSET {STEP} LIMIT 1) AS following
""")  # noqa: S608 words and a number of ours
_FOLLOWING = statement(f"SELECT ticket_id {_COMMENTS} ORDER BY ticket_id LIMIT 1")
_OPEN = f"SELECT 1 FROM reconciliation_findings WHERE key = {{key}} AND {OPEN_FINDING}"  # noqa: S608 words of ours
_TICKETS = statement(f"""
WITH {FRESH}
SELECT ticket.ticket_id, mails.emails, mails.files, mails.bytes, ticket.first_at, ticket.last_at, mails.verified,
    CASE
        WHEN ticket.last_at >= :before THEN 'later'
        WHEN EXISTS (
            SELECT FROM refused_tickets WHERE account = :account AND ticket_id = ticket.ticket_id
        ) THEN 'not_read'
        WHEN NOT (ticket.is_kept AND mails.is_kept) THEN 'not_kept'
        WHEN NOT mails.is_unchanged THEN 'changed'
        WHEN NOT mails.is_synced THEN 'not_synced'
    END AS reason
FROM (
    SELECT listed.ticket_id, bool_and({STATES["kept"]}) AS is_kept,
        min(listed.created_at) AS first_at, max(listed.created_at) AS last_at
    FROM (
        SELECT ticket_id, comment_id, created_at {_COMMENTS}
        AND (CAST(:last_ticket AS text) IS NULL OR ticket_id <= :last_ticket)
    ) AS listed {EMAIL_OF}
    GROUP BY listed.ticket_id
) AS ticket
CROSS JOIN LATERAL (
    SELECT count(*) AS emails, coalesce(sum(files.number), 0)::bigint AS files,
        coalesce(sum(files.bytes), 0)::bigint AS bytes,
        coalesce(bool_and(mail.processing_status = 'completed' AND mail.error_code IS NULL AND NOT mail.has_news
            AND said.email_id IS NOT NULL AND files.not_stored = 0), false) AS is_kept,
        coalesce(bool_and(mail.zendesk_state IS NULL), false) AS is_unchanged,
        coalesce(bool_and(NOT :has_target OR mail.sync_status = 'synced'), false) AS is_synced,
        coalesce(bool_and(
            (
                coalesce(stored.at < :all_at, false)
                OR coalesce(stored.at < :part_at AND mail.received_at >= :part_since, false)
            ) AND NOT files.is_damaged
            AND NOT EXISTS ({_OPEN.format(key="said.record_key")})
            AND NOT EXISTS ({_OPEN.format(key="said.original_key")})
        ), false) AS verified
    FROM incoming_emails AS mail
    LEFT JOIN messages AS said ON said.email_id = mail.id
    CROSS JOIN LATERAL (
        SELECT count(*) AS number, count(*) FILTER (WHERE status <> 'stored') AS not_stored, sum(size) AS bytes,
            max(stored_at) AS stored_at, coalesce(bool_or(EXISTS ({_OPEN.format(key="object_key")})), false) AS is_damaged
        FROM attachments WHERE email_id = mail.id
    ) AS files
    CROSS JOIN LATERAL (
        SELECT greatest(mail.completed_at, files.stored_at, said.fetched_at) AS at
    ) AS stored
    WHERE mail.zendesk_ticket_id = ticket.ticket_id AND coalesce(mail.account_id, '') = ANY (:keys)
) AS mails
ORDER BY ticket.ticket_id
""")  # noqa: S608 words of ours
