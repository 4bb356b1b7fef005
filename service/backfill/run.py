"""Search a Zendesk account for e-mails that no webhook announced, in steps that any worker takes under a lease."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import structlog

from service.backfill import deleted, record, refused, suspended
from service.backfill.legs import EventsLeg, Leg, LegLeft, ListsLeg, Span, gap_end
from service.backfill.record import Held, Page, Run
from service.backfill.tickets import AT_ONCE, reaches_one, read_tickets
from service.errors import HoldfastError, Permanent, Transient
from service.jobs import discovery
from service.resources import Resources, background, repeat_steps
from service.telemetry.metrics import BACKFILL_EMAILS, BACKFILL_RUNS
from service.zendesk.rate_limit import key_of

# A search leaves this share of the budget of calls to others: announced e-mails go first, history last.
RESERVES = {"current": 0.2, "history": 0.5}
SOON_SECONDS = 0.05
IDLE_SECONDS = 5.0
# A search of history that waits for calls lets the current one go first when that is due.
MOST_WAIT = timedelta(seconds=20)
FULL_PAUSE = timedelta(seconds=5)
LEARN_BATCH = 500
# So many of the newest found e-mails are compared with webhooks that named no account.
ADOPTED = 5_000
# Statuses of a list that Zendesk does not give, or not for these credentials.
_CLOSED = {400, 403, 404, 410, 422}
# Errors after which no other list is asked for.
_OF_ALL = {"rate_limited", "lease_lost"}

log = structlog.get_logger()


async def backfill_for_ever(res: Resources) -> None:
    """Take due steps until cancelled; search at once at the start, and after an outage of Postgres."""
    due_again = True

    async def next_step() -> bool:
        nonlocal due_again
        try:
            if due_again and res.settings.backfill_minutes and res.zendesk.has_login:
                await res.run(partial(record.make_due, account=account_of(res), recent=record.RECENT))
            due_again = False
            return await step(res)
        except Transient:
            due_again = True
            raise

    await repeat_steps(next_step, soon=SOON_SECONDS, idle=IDLE_SECONDS, event="backfill_put_off")


def account_of(res: Resources) -> str:
    """Return the account's key in the tables: its host."""
    assert res.account.url is not None  # noqa: S101 a login requires the address
    return key_of(res.account.url)


async def step(res: Resources) -> bool:
    """Take one step of the due work, if no other process does; return whether there was one.

    Raises Transient where Postgres is away. Errors of Zendesk are recorded, and put off the next step.
    """
    if not res.zendesk.has_login:
        return False
    account, minutes = account_of(res), res.settings.backfill_minutes
    if minutes:
        await res.run(partial(record.begin_source, account=account))
    held = await res.run(partial(record.take, account=account, minutes=minutes))
    if held is None:
        return False
    async with _renewing(res, held):
        return await _work(res, held)


async def _work(res: Resources, held: Held) -> bool:
    """Do the most urgent work: the current search, then the hourly lists, then history."""
    run = await res.run(partial(record.next_run, held=held, minutes=res.settings.backfill_minutes))
    pause, is_done = timedelta(0), True
    # While steps fail, lists and searches take turns: neither waits for the end of the other's error.
    lists_first = run is None or (held.number % 2 == 0 if held.fails else run.is_history)
    try:
        if held.hourly and lists_first:
            run = None
            await _read_lists(res, held)
        elif run is None or (run.adds_history and await res.run(record.is_full)):
            pause, is_done = (FULL_PAUSE if run else timedelta(0)), False
        else:
            await _step_of(res, held, run)
    except HoldfastError as exc:
        return await _after_error(res, held, run, exc)
    except asyncio.CancelledError:
        with suppress(HoldfastError):
            await asyncio.shield(res.run(partial(record.hand_back, held=held)))
        raise
    except Exception as exc:
        log.exception("backfill_broke", run=run and run.id)
        unexpected = Transient("internal_error", f"Unexpected {type(exc).__name__}, see the log.")
        return await _after_error(res, held, run, unexpected)
    await res.run(partial(record.hand_back, held=held, pause=pause))
    return is_done


async def _read_lists(res: Resources, held: Held) -> None:
    """Read the hourly lists; one that Zendesk does not give is left out until the next hour.

    Raises Transient, and Permanent for credentials that Zendesk does not accept at all.
    """
    if held.account_id is not None:
        await _spread_account(res, held.account_id)
    is_whole, problem = True, None
    for name, read in (("suspended_tickets", suspended.read), ("deleted_tickets", deleted.read)):
        try:
            is_whole = await read(res, held) and is_whole
        except HoldfastError as exc:
            if exc.code in _OF_ALL:
                raise
            log.warning("backfill_list_not_read", list=name, code=exc.code)
            if exc.answered not in _CLOSED and exc.code != "bad_response":
                problem = exc  # the other list is read all the same
    if problem is not None:
        raise problem
    if is_whole:
        await res.run(partial(record.note_hour, held=held))


async def _step_of(res: Resources, held: Held, run: Run) -> None:
    """Make one call of the leg, or read the comments of some tickets; save the findings."""
    span = Span(run.since, run.until, held.now, run.known_since)
    reserve = RESERVES[run.kind]
    if run.tickets:
        await _read_tickets(res, held, run, span, reserve)
        return
    try:
        found = await _leg_of(res, run, span, reserve).read(run.place)
    except LegLeft as exc:
        log.warning("backfill_leg_left", run=run.id, code=exc.code, reason=exc.message)
        leave = partial(record.leave_leg, held=held, run=run, code=exc.code, of_account=exc.of_account)
        await res.run(leave)
        return
    page = Page(
        found.position,
        found.tickets,
        found.is_end,
        found.reached,
        found.found,
        # Any other change may have been taken back after the end of the search.
        [each for each in found.changes if each.state == "redacted" or run.until is None],
        left_out=gap_end(found.position),
    )
    await _save(res, held, run, page, found.account_id)


async def _read_tickets(res: Resources, held: Held, run: Run, span: Span, reserve: float) -> None:
    """Read the comments of the next tickets, and save the comments and the refusals; raises the error of one that is left."""
    asked = [*run.tickets][:AT_ONCE]
    known = await res.run(partial(refused.known, account=held.account, ticket_ids=asked))
    # Of a ticket that was refused before, all is read that is not known since.
    tickets = {each: min(since, known.get(each, since)) for each, since in run.tickets.items()}
    read = await read_tickets(res.zendesk, tickets, span, reserve, known)
    if read.doubt is not None and not await reaches_one(res.zendesk, await _others(res, held, run), reserve):
        raise read.doubt  # the credentials reach no ticket any more: none is skipped
    page = Page(
        run.place,
        read.left,
        run.is_read,
        found=read.found,
        refused=read.refused,
        # A search that ends before now has not read all of a ticket that was refused.
        settled=read.settled if span.until is None else (),
        calls=read.calls,
    )
    if read.problem is None or len(read.left) < len(run.tickets):
        await _save(res, held, run, page, read.account_id)
    if read.problem is not None:
        raise read.problem


async def _others(res: Resources, held: Held, run: Run) -> Sequence[str]:
    """Return tickets that tell whether a refusal is about single ones: some that were read before, some yet to read.

    Those of a group stand together in the list: so they are spread over it.
    """
    asked, later = [*run.tickets][:AT_ONCE], [*run.tickets][AT_ONCE:]
    refused_ones = await res.run(partial(refused.known, account=held.account, ticket_ids=later))
    later = [each for each in later if each not in refused_ones]
    read_before = partial(refused.readable, account=held.account, account_id=held.account_id, but=asked)
    readable = await res.run(read_before)
    return [*dict.fromkeys([*readable, *later[:: len(later) // refused.MOST_OTHERS + 1]])]


def _leg_of(res: Resources, run: Run, span: Span, reserve: float) -> Leg:
    if run.leg == "events":
        return EventsLeg(res.zendesk, span, reserve)
    # What the export found before it was left needs no second search.
    return ListsLeg(res.zendesk, Span(run.listed_since or run.since, span.until, span.now), reserve)


async def _save(res: Resources, held: Held, run: Run, page: Page, named: str | None) -> None:
    """Save a page, then dispatch the jobs of its new e-mails."""
    settings = res.settings
    account_id = held.account_id
    if account_id is None or (page.is_end and not held.account_is_told):
        account_id = await _learn_account(res, held, named)
    save = partial(
        record.save,
        held=held,
        run=run,
        page=page,
        account_id=account_id,
        minutes=settings.backfill_minutes,
        sync_status=settings.sync_status,
    )
    saved = await res.run(save)
    for job in saved.jobs:
        res.dispatcher.dispatch(job)
    if not run.dry_run:
        BACKFILL_EMAILS.labels("found").inc(saved.found)
        BACKFILL_EMAILS.labels("added").inc(saved.added)
    if saved.added or page.is_end:
        log.info(
            "backfill_page", run=run.id, kind=run.kind, found=saved.found, added=saved.added, end=page.is_end
        )
    if page.is_end:
        if account_id is not None:
            await res.run(partial(discovery.adopt_nameless, account_id=account_id, limit=ADOPTED))
        BACKFILL_RUNS.labels("done").inc()


async def _learn_account(res: Resources, held: Held, named: str | None) -> str | None:
    """Learn the number of the account, from a webhook or else as an e-mail's comment named it.

    A comment may name another account, from which it was copied: the webhook's number takes its place.
    """
    told = await res.run(record.account_of_webhooks)
    account_id = told or held.account_id or named
    if account_id is not None and (account_id != held.account_id or told):
        wrong = held.account_id if account_id != held.account_id else None
        await _spread_account(res, account_id, wrong)
        set_account = partial(record.set_account, held=held, account_id=account_id, is_told=told is not None)
        await res.run(set_account)
    return account_id


async def _spread_account(res: Resources, account_id: str, wrong: str | None = None) -> None:
    """Give the number of the account to e-mails that were found before it was known, or meanwhile."""
    learn = partial(discovery.learn_account, account_id=account_id, limit=LEARN_BATCH, instead_of=wrong)
    while await res.run(learn) == LEARN_BATCH:
        pass


async def _after_error(res: Resources, held: Held, run: Run | None, error: HoldfastError) -> bool:
    """Record an error of Zendesk, and pause; raise one of Postgres. A run ends where no further step can succeed."""
    if error.code == "lease_lost":
        log.info("backfill_lease_lost", run=run and run.id)
        return False
    if error.code.startswith("database_"):
        raise error
    if error.code == "rate_limited":
        wait = error.retry_after if isinstance(error, Transient) and error.retry_after else record.LEAST_PAUSE
        most = MOST_WAIT if run is not None and run.is_history else record.MOST_PAUSE
        await res.run(partial(record.hand_back, held=held, pause=min(wait, most)))
        return False
    ended = run if isinstance(error, Permanent) else None
    log.warning("backfill_failed", run=run and run.id, code=error.code, ended=ended is not None)
    await res.run(partial(record.put_off, held=held, error=error, run=ended))
    if ended is not None:
        BACKFILL_RUNS.labels("failed").inc()
    return False


@asynccontextmanager
async def _renewing(res: Resources, held: Held) -> AsyncIterator[None]:
    """Renew the lease during the block; a step whose lease is lost saves nothing."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(record.LEASE.total_seconds() / 3)
            await res.insist(partial(record.renew, held=held))

    async with background(renew):
        yield
