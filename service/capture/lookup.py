"""Look up the ticket of an e-mail in Zendesk: its newest comments are kept as messages, with the files of each."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

import structlog

from service.capture.choice import LAG, Choice, choose
from service.capture.retry_policy import is_early
from service.errors import HoldfastError, Permanent, Transient
from service.jobs import messages, tickets
from service.jobs.attempts import Claim
from service.jobs.erased import erased_comments, forget
from service.jobs.loose_objects import put
from service.jobs.messages import KeptComment
from service.jobs.object_references import write_references
from service.jobs.tickets import TicketKey
from service.outbound.addresses import attachment_key, host_of
from service.resources import LookUp, Resources
from service.storage.objects import StoredObject
from service.zendesk import comments as api
from service.zendesk.client import next_page
from service.zendesk.messages import CommentMessage, ListedFile, read_page

# Between two looks whether the worker that looks up the ticket is done.
_POLL_SECONDS = 0.1
# Look-ups of old e-mails that a back-fill found leave this share of the budget of calls to others.
HISTORY_RESERVE = 0.5
# Readings of long tickets that go on where they were cut off.
MOST_CUT_OFF = 1_000

Place = tuple[str, str, str]  # a reading: account, ticket, and the comment that is looked for
# So long after the receipt, an older comment may be that of a webhook that names none; the second more is for rounding.
_AFTER_LAG = LAG + timedelta(seconds=1)

log = structlog.get_logger()


async def look_up(res: Resources, claim: Claim, *, afresh: bool = False) -> None:
    """Have the newest comments of the ticket kept, by this worker or by another one that is about to.

    One look-up serves all e-mails of the ticket that wait; `afresh` asks once more, because an address is no longer
    valid. Raises Transient and Permanent.
    """
    if not res.zendesk.has_login:
        raise _cannot_ask(claim)
    if claim.ticket_id and not (claim.ticket_id.isascii() and claim.ticket_id.isdigit()):
        named = f"The webhook names the ticket {claim.ticket_id[:100]!r}, which is no number"
        raise Permanent("no_ticket", f"{named}: Zendesk cannot be asked for its files.")
    ticket = TicketKey(claim.account_id or "", claim.ticket_id)
    while not afresh and (running := res.look_ups.get(ticket)) is not None:
        running.email_ids.add(claim.email_id)
        await _join(running.task)
        if await res.batch.insist(tickets.looked_up, claim.email_id):
            return
    waiting = {claim.email_id}
    task = asyncio.create_task(_look_up_alone(res, claim, ticket, waiting, afresh=afresh))
    running = res.look_ups[ticket] = LookUp(task, waiting)
    try:
        await task
    finally:
        if res.look_ups.get(ticket) is running:
            del res.look_ups[ticket]


async def _join(running: asyncio.Task[None]) -> None:
    """Wait for a look-up of another attempt; its error is ours, too: the next attempt asks again."""
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not running.cancelled() or (task is not None and task.cancelling()):
            raise  # otherwise only the other attempt was cancelled


async def _look_up_alone(
    res: Resources, claim: Claim, ticket: TicketKey, waiting: Collection[int], *, afresh: bool
) -> None:
    """Look up the ticket while no other worker does; do nothing where another one just did."""
    while not await res.batch.insist(tickets.lease, ticket):
        await asyncio.sleep(_POLL_SECONDS)
        if not afresh and await res.batch.insist(tickets.looked_up, claim.email_id):
            return
    try:
        if afresh or not await res.batch.insist(tickets.looked_up, claim.email_id):
            await _look_up(res, claim, ticket, waiting)
    finally:
        with suppress(HoldfastError):  # otherwise the lease ends by itself
            await asyncio.shield(res.batch(tickets.release, ticket))


async def _look_up(res: Resources, claim: Claim, ticket: TicketKey, waiting: Collection[int]) -> None:
    """Ask for the newest comments, and keep them; raises Transient if the e-mail's own is not there (yet).

    `waiting` are the e-mails whose attempts wait for it.
    """
    known = partial(messages.known_emails, ticket=ticket, running=claim.email_id)
    before = (await res.insist(partial(known, comment_ids=()))).waiting
    waited = {email.email_id for email in before}
    may_wait = bool(before) and all(email.may_wait for email in before)
    wanted = {email.comment_id for email in before if email.comment_id}
    found = await _comments(res, claim, wanted, HISTORY_RESERVE if may_wait else 0.0)
    now_known = await res.insist(partial(known, comment_ids=[each.comment_id for each in found]))
    overdue = () if is_early(res, claim) else (claim.email_id,)
    choice = choose(found, now_known, waited, overdue)
    kept = await _keep(res, claim, ticket, waiting, choice)
    if choice.ignored:
        await res.insist(partial(messages.ignore, email_ids=choice.ignored))
    log.info("ticket_looked_up", comments=len(found), kept=kept, ignored=len(choice.ignored))
    is_mine_there = any(email.email_id == claim.email_id for email in now_known.waiting)
    if is_mine_there and claim.email_id not in choice.settled:
        which = f"comment {claim.comment_id}" if claim.comment_id else "comment of this e-mail"
        # The API may be some moments behind the triggers. A webhook without a comment waits for the end of that: one call more.
        lag = _AFTER_LAG - timedelta(seconds=claim.age)
        wait = lag if not claim.comment_id and lag > timedelta() else None
        raise Transient("comment_not_found", f"Ticket {claim.ticket_id} has no {which} (yet).", wait)


async def _keep(
    res: Resources, claim: Claim, ticket: TicketKey, waiting: Collection[int], choice: Choice
) -> int:
    """Keep the chosen comments, except erased ones, and dispatch the jobs that this queues; return their number."""
    comments = [each for _, each in choice.kept]
    erased = await res.insist(partial(erased_comments, ticket=ticket, comments=comments))
    kept = [
        KeptComment(each, await _put(res, claim, each), email_id)
        for email_id, each in choice.kept
        if each.comment_id not in erased
    ]
    if gone := [email_id for email_id, each in choice.kept if email_id and each.comment_id in erased]:
        await res.insist(partial(forget, email_ids=gone))
    keep = partial(
        messages.keep,
        ticket=ticket,
        comments=kept,
        waiting=set(waiting),
        sync_status=res.settings.sync_status,
    )
    for job in await write_references(res.storage, lambda proofs: res.insist(partial(keep, proofs=proofs))):
        res.dispatcher.dispatch(job)
    return len(kept)


async def _comments(
    res: Resources, claim: Claim, wanted: Collection[str], reserve: float
) -> Sequence[CommentMessage]:
    """Return the newest hundred comments, the newest first, and the named one if it is an older one.

    Of the pages up to that, also those that other e-mails of the ticket want: each would read them again. Where the reading
    is cut off, as by the rate limit, the next attempt goes on with the next page: otherwise many attempts at long tickets
    would use up all calls with their first pages, for ever.
    """
    place = (claim.account_id or "", claim.ticket_id, claim.comment_id or "")
    if (start := res.next_pages.get(place)) is not None:
        with suppress(Permanent):
            return await _read_pages(res, claim, place, wanted, reserve, start)
        res.next_pages.pop(place, None)  # Zendesk no longer knows that page
    return await _read_pages(res, claim, place, wanted, reserve, None)


async def _read_pages(  # noqa: PLR0913, PLR0917 the parts of one reading
    res: Resources, claim: Claim, place: Place, wanted: Collection[str], reserve: float, start: str | None
) -> Sequence[CommentMessage]:
    """Read pages until the named comment, from this one on; note at each where the reading goes on."""
    found: list[CommentMessage] = []
    path, is_newest = api.path(claim.ticket_id), start is None
    pages = res.zendesk.pages(path, api.MOST_PAGES, api.QUERY, reserve=reserve, start=start)
    async with aclosing(pages):
        async for page in pages:
            comments = await _read(res, page)
            found += [
                each for each in comments if is_newest or each.comment_id in {claim.comment_id, *wanted}
            ]
            is_newest = False
            res.next_pages.pop(place, None)
            if not claim.comment_id or any(each.comment_id == claim.comment_id for each in comments):
                break
            if following := next_page(page):
                _note(res.next_pages, place, following)
    return found


def _note(next_pages: dict[Place, str], place: Place, page: str) -> None:
    """Note where a reading goes on; of too many, the oldest is forgotten."""
    next_pages[place] = page
    if len(next_pages) > MOST_CUT_OFF:
        del next_pages[next(iter(next_pages))]


async def _read(res: Resources, page: Mapping[str, object]) -> list[CommentMessage]:
    comments = await asyncio.to_thread(read_page, page)  # it may hold megabytes
    return [_without_foreign(res, each) for each in comments]


def _without_foreign(res: Resources, comment: CommentMessage) -> CommentMessage:
    """Take a link in a sender's text to another account's file for no file of the e-mail."""
    own = tuple(file for file in comment.files if _is_own(res, file))
    foreign = frozenset(attachment_key(file.url) for file in comment.files if file not in own)
    return replace(comment, files=own, foreign=foreign)


def _is_own(res: Resources, file: ListedFile) -> bool:
    return not file.is_linked or file.url.startswith("/") or res.account.has_host(host_of(file.url))


async def _put(res: Resources, claim: Claim, comment: CommentMessage) -> StoredObject:
    async def whole() -> AsyncIterator[bytes]:
        yield comment.record

    return await put(res, whole(), "comment.json", claim.email_id)


def _cannot_ask(claim: Claim) -> Permanent:
    how = "set ZENDESK_SUBDOMAIN, ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET"
    if claim.comment_id:
        return Permanent("credentials_missing", f"The webhook names a comment. To look up its files, {how}.")
    return Permanent(
        "files_unknown",
        "The webhook does not list the files: add `comment_id` with {{ticket.latest_comment.id}} to the"
        f" trigger's body and {how}, or add the list `attachments` to it.",
    )
