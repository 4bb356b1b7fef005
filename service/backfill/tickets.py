"""Read the comments of tickets, to find those by e-mail: the comments API tells more than a leg."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from service.backfill.legs import Span, has_passed
from service.backfill.refused import Refusal
from service.errors import HoldfastError, Permanent, Transient
from service.telemetry.metrics import BACKFILL_TICKETS
from service.zendesk import comments as api
from service.zendesk.client import ZendeskClient
from service.zendesk.exports import ListedComment, account_of_comments, has_more
from service.zendesk.messages import CommentMessage, read_page

# One step reads so many tickets: it is repeated if its worker dies.
AT_ONCE = 20
_REFUSED = 403
# Answers for a ticket that was deleted.
_GONE = {404, 410}
# Errors that may be those of one ticket alone.
_OF_TICKET = {"server_error", "bad_response", "too_large", "download_timeout", "download_stalled"}

log = structlog.get_logger()


@dataclass(slots=True)
class TicketsRead:
    """What the comments of some tickets told; `left` are those to read yet, and `problem` why not all were read.

    `settled` were read or are gone, and `refused` are not shown to these credentials. `doubt` is a refusal that may be one of
    all tickets: none was read, and one was refused that was not known as such.
    """

    left: dict[str, datetime]
    found: list[ListedComment] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    account_id: str | None = None
    calls: int = 0
    problem: HoldfastError | None = None
    doubt: HoldfastError | None = None


async def read_tickets(
    zendesk: ZendeskClient,
    tickets: Mapping[str, datetime],
    span: Span,
    reserve: float,
    known: Collection[str] = (),
) -> TicketsRead:
    """Read some of these tickets, each since its time; `known` are those that were refused before.

    A ticket whose comments cannot be read goes behind the others, and its error is the `problem` in the end.
    """
    read, is_any_read = TicketsRead(dict(tickets)), False
    for ticket_id, since in list(tickets.items())[:AT_ONCE]:
        try:
            await _read_ticket(zendesk, ticket_id, since, span, reserve, read)
        except HoldfastError as exc:
            if exc.code in _OF_TICKET:
                # Not permanent: another search would begin with it again.
                read.problem = Transient(exc.code, f"Ticket {ticket_id}: {exc.message}")
                read.left[ticket_id] = read.left.pop(ticket_id)
                continue
            if not _leave_out(read, ticket_id, since, exc):
                read.problem = exc
                break
            if exc.answered == _REFUSED and ticket_id not in known:
                read.doubt = exc
        else:
            is_any_read = True
            read.settled.append(ticket_id)
            BACKFILL_TICKETS.labels("read").inc()
        del read.left[ticket_id]
    if is_any_read:
        read.doubt = None
    return read


def _leave_out(read: TicketsRead, ticket_id: str, since: datetime, exc: HoldfastError) -> bool:
    """Note a ticket that Zendesk does not show; return False for another error."""
    if not (isinstance(exc, Permanent) and exc.answered in {_REFUSED, *_GONE}):
        return False
    is_refused = exc.answered == _REFUSED
    if is_refused:
        read.refused.append(Refusal(ticket_id, since, exc.code, exc.message))
    else:
        read.settled.append(ticket_id)
    BACKFILL_TICKETS.labels("refused" if is_refused else "skipped").inc()
    log.warning("backfill_ticket_refused" if is_refused else "backfill_ticket_skipped", ticket=ticket_id)
    return True


async def _read_ticket(  # noqa: PLR0913, PLR0917 the parts of one reading
    zendesk: ZendeskClient, ticket_id: str, since: datetime, span: Span, reserve: float, read: TicketsRead
) -> None:
    """Read the comments of a ticket, the newest first, until one is older; raises Transient where some cannot be reached."""
    found: list[ListedComment] = []
    pages = zendesk.pages(api.path(ticket_id), api.MOST_PAGES, api.QUERY, reserve=reserve)
    async with aclosing(pages):
        async for page in pages:
            read.calls += 1
            comments = await asyncio.to_thread(read_page, page)
            read.account_id = read.account_id or account_of_comments(page)
            found += _by_email(ticket_id, comments, since, span)
            times = [each.created_at for each in comments if each.created_at is not None]
            if has_passed(times, since):
                break
        else:
            if has_more(page):
                raise Transient("bad_response", "Zendesk has more comments, and does not show them.")
    read.found += found


def _by_email(
    ticket_id: str, comments: Iterable[CommentMessage], since: datetime, span: Span
) -> Iterable[ListedComment]:
    earliest = min(since, span.known_since or since)
    for comment in comments:
        # Without its time, a comment may be a new one.
        made_at = comment.created_at or span.now
        if comment.is_email and made_at >= earliest and span.has(made_at):
            yield ListedComment(ticket_id, comment.comment_id, made_at)


async def reaches_one(zendesk: ZendeskClient, ticket_ids: Iterable[str], reserve: float) -> bool:
    """Say whether Zendesk shows the comments of one of these tickets to the credentials; raises if it cannot tell.

    A ticket that was deleted tells nothing, nor does one whose comments cannot be read for a reason of its own.
    """
    problem = None
    for ticket_id in ticket_ids:
        try:
            await zendesk.get(api.path(ticket_id), {"page[size]": "1"}, reserve=reserve)
        except HoldfastError as exc:
            if exc.code in _OF_TICKET:
                problem = Transient(exc.code, f"Ticket {ticket_id}: {exc.message}")
            elif exc.answered not in {_REFUSED, *_GONE}:
                raise
        else:
            return True
    if problem is not None:
        raise problem
    return False
