"""The tables of the back-fill: the lease of a search, its position and its finds. A page is one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from service.backfill import extent, refused, statements
from service.backfill.refused import Refusal
from service.errors import HoldfastError, Transient
from service.jobs import discovery
from service.jobs.discovery import Discovery, Mark
from service.jobs.waiting import Job
from service.postgres.engine import transaction
from service.zendesk.exports import Change, ListedComment

# A worker that dies leaves its lease; then another one goes on.
LEASE = timedelta(seconds=30)
# The first search of an account begins this long ago.
FIRST = timedelta(days=7)
# The export of events is tried again after this time.
TRY_EVENTS_AGAIN = timedelta(days=1)
HOUR = timedelta(hours=1)
# Finished current runs are kept for so long.
KEPT = timedelta(days=30)
# A worker that starts searches at once, unless the last search ended within this time.
RECENT = timedelta(minutes=1)
# A pause after an error lasts half of the time since the first one, within these bounds.
LEAST_PAUSE, MOST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)
# A search of history pauses while more e-mails of back-fills wait.
MOST_WAITING = 1_000


class Held(NamedTuple):
    """The lease of an account; `number` is the fencing token, and `now` the time at which it was taken."""

    account: str
    number: int
    account_id: str | None
    now: datetime
    hourly: bool  # an hour has passed since the suspended e-mails were read
    fails: bool  # the latest step ended with an error
    account_is_told: bool  # a webhook told the account's number


@dataclass(frozen=True, slots=True)
class Run:
    """An open back-fill, from which it goes on; `tickets` are those whose comments are to be read yet, since when."""

    id: int
    kind: str
    since: datetime
    until: datetime | None
    dry_run: bool
    leg: str
    reached: datetime | None
    listed_since: datetime | None  # of the leg `lists`, if the run began with the other one
    place: Mapping[str, Any] | None
    tickets: Mapping[str, datetime]
    is_read: bool  # the leg is at its end
    known_since: datetime | None  # since when all e-mails of the account should be on record

    @property
    def is_history(self) -> bool:
        return self.kind == "history"

    @property
    def adds_history(self) -> bool:
        return self.is_history and not self.dry_run


class History(NamedTuple):
    """A range that a person wants to be searched: without `since` from where the current search begins."""

    since: datetime | None
    until: datetime | None
    dry_run: bool


class RunState(NamedTuple):
    """How far a run is; `waiting` are tickets whose comments are to be read yet."""

    since: datetime
    until: datetime | None
    leg: str
    reached: datetime | None
    found: int
    added: int
    calls: int
    waiting: int
    left_out: datetime | None  # the end of the latest second of which it found only a part
    is_finished: bool
    error_code: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """What a step found, and from where the run goes on."""

    place: Mapping[str, Any] | None
    tickets: Mapping[str, datetime]
    is_read: bool
    reached: datetime | None = None
    found: Sequence[ListedComment] = ()
    changes: Sequence[Change] = ()
    refused: Sequence[Refusal] = ()
    settled: Sequence[str] = ()  # tickets that are refused no longer
    left_out: datetime | None = None  # as RunState has it
    calls: int = 1

    @property
    def is_end(self) -> bool:
        return self.is_read and not self.tickets

    @property
    def position(self) -> dict[str, Any]:
        return {"place": self.place, "is_read": self.is_read, **_written(self.tickets)}


@dataclass(slots=True)
class Saved:
    """What became of a page: the jobs to dispatch, and the number of new e-mails."""

    found: int = 0
    added: int = 0
    jobs: list[Job] = field(default_factory=list)


def lease_lost() -> Transient:
    return Transient("lease_lost", "Another process goes on with the back-fill.", counts=False)


async def begin_source(conn: AsyncConnection, account: str) -> None:
    """Record an account, unless it is on record."""
    await conn.execute(statements.BEGIN_SOURCE, {"account": account})


async def take(conn: AsyncConnection, account: str, minutes: int) -> Held | None:
    """Take the lease of an account if something is due there and no other process has it."""
    given = {"account": account, "is_on": minutes > 0, "lease": LEASE, "hour": HOUR}
    row = (await conn.execute(statements.TAKE, given)).one_or_none()
    return Held(account, *row) if row else None


async def renew(conn: AsyncConnection, held: Held) -> bool:
    """Renew the lease; False if another process has it."""
    return bool((await conn.execute(statements.RENEW, {**_fence(held), "lease": LEASE})).rowcount)


async def hand_back(conn: AsyncConnection, held: Held, pause: timedelta = timedelta(0)) -> None:
    """End the lease, after a pause in which no process takes it."""
    await conn.execute(statements.RENEW, {**_fence(held), "lease": pause})


async def put_off(conn: AsyncConnection, held: Held, error: HoldfastError, run: Run | None) -> None:
    """Record an error, and end the lease after a pause that grows; a `run` ends with it."""
    asked = error.retry_after if isinstance(error, Transient) else None
    given = {
        **_fence(held),
        "code": error.code,
        "error": error.message,
        "least": max(LEAST_PAUSE, min(asked or LEAST_PAUSE, MOST_PAUSE)),
        "most": MOST_PAUSE,
    }
    async with transaction(conn):
        if (await conn.execute(statements.PUT_OFF, given)).rowcount and run is not None:
            await conn.execute(statements.FAIL, {"id": run.id, "code": error.code})


async def make_due(conn: AsyncConnection, account: str, recent: timedelta = timedelta(0)) -> None:
    """Make a search due now, unless the last one is no older than `recent`."""
    await conn.execute(statements.MAKE_DUE, {"account": account, "recent": recent})


async def request(conn: AsyncConnection, account: str, actor: str) -> int:
    """Begin the current search now, if none is open; return its id. It asks for all refused tickets again."""
    async with transaction(conn):
        await conn.execute(statements.BEGIN_SOURCE, {"account": account})
        # `save` locks the account first too: neither has a ticket that the other one waits for.
        await conn.execute(statements.LOCK_SOURCE, {"account": account})
        await refused.make_due(conn, account)
        await _begin_current(conn, account, actor=actor, force=True)
        row = (await conn.execute(statements.OPEN_CURRENT, {"account": account})).one()
        await _ask_again(conn, account, row.id, row.position)
        return int(row.id)


async def _ask_again(
    conn: AsyncConnection, account: str, run_id: int, position: Mapping[str, Any] | None
) -> None:
    """Let a search that is under way ask for the refused tickets that are due."""
    due = await refused.due(conn, account)
    if not due:
        return
    # A step that is under way would save over them, or may have asked too early: it is repeated.
    await conn.execute(statements.FENCE_OFF, {"account": account})
    if position is not None:
        tickets = {**due, **_tickets_of(position)}
        given = {"id": run_id, "position": {**position, **_written(tickets)}}
        await conn.execute(statements.CHANGE_POSITION, given)


async def request_history(conn: AsyncConnection, account: str, wanted: History, actor: str) -> int:
    """Begin a search of history, or go on with an open one of the same range; return its id."""
    given = {"account": account, **wanted._asdict(), "actor": actor}
    async with transaction(conn):
        await conn.execute(statements.BEGIN_SOURCE, {"account": account})
        await conn.execute(statements.LOCK_SOURCE, {"account": account})
        known = await conn.scalar(statements.SAME_HISTORY, given)
        return int(known or await conn.scalar(statements.BEGIN_HISTORY, {**given, "first": FIRST}))


async def state_of(conn: AsyncConnection, run_id: int) -> RunState:
    """Return how far a run is."""
    return RunState(*(await conn.execute(statements.RUN_STATE, {"id": run_id})).one())


async def next_run(conn: AsyncConnection, held: Held, minutes: int) -> Run | None:
    """Return the open run to go on with, the current one first; begin the current one if it is due."""
    if minutes:
        await _begin_current(conn, held.account, actor=None, force=False)
    row = (await conn.execute(statements.NEXT_RUN, {"account": held.account})).one_or_none()
    if row is None:
        return None
    position, tickets = row.position or {}, _tickets_of(row.position)
    if row.position is None and row.kind == "current":  # it begins
        tickets = {**await refused.due(conn, held.account)}
    return Run(
        id=row.id,
        kind=row.kind,
        since=row.since,
        until=row.until,
        dry_run=row.dry_run,
        leg=row.leg,
        reached=row.reached,
        listed_since=row.listed_since,
        place=position.get("place"),
        tickets=tickets,
        is_read=bool(position.get("is_read")),
        known_since=row.complete_since,
    )


async def is_full(conn: AsyncConnection) -> bool:
    """Say whether so many e-mails of back-fills wait that a search of history pauses."""
    return int(await conn.scalar(statements.WAITING_ONES, {"most": MOST_WAITING + 1}) or 0) > MOST_WAITING


async def account_of_webhooks(conn: AsyncConnection) -> str | None:
    """Return the number of the account, as the newest webhook told it; None without one."""
    account_id: str | None = await conn.scalar(statements.ACCOUNT_OF_WEBHOOKS)
    return account_id


async def set_account(conn: AsyncConnection, held: Held, account_id: str, *, is_told: bool) -> None:
    """Record the number of the account; `is_told` if a webhook told it."""
    await conn.execute(statements.LEARN, {**_fence(held), "account_id": account_id, "is_told": is_told})


async def save(  # noqa: PLR0913 keywords
    conn: AsyncConnection,
    held: Held,
    run: Run,
    page: Page,
    *,
    account_id: str | None,
    minutes: int,
    sync_status: str,
) -> Saved:
    """Save the findings of a step, in one transaction; raises Transient("lease_lost") if another process goes on."""
    found = [Discovery(*each) for each in _distinct(page.found)]
    saved = Saved(len(found))
    async with transaction(conn):
        if not (await conn.execute(statements.SUCCEED, {**_fence(held), "leg": run.leg})).rowcount:
            raise lease_lost()
        if run.dry_run:
            saved.added = await discovery.count_missing(conn, account_id or "", found)
        else:
            await _add(conn, held, account_id or "", page, found, saved, sync_status)
            await refused.save(conn, held.account, page.refused, page.settled)
        given = {
            "id": run.id,
            "position": page.position,
            "reached": page.reached,
            "left_out": page.left_out,
            "found": saved.found,
            "added": saved.added,
            "calls": page.calls,
            "is_end": page.is_end,
        }
        row = (await conn.execute(statements.PROGRESS, given)).one_or_none()
        if row is None:
            raise lease_lost()
        if page.is_end and not run.dry_run:
            await _complete(conn, held, run, row.reached, row.left_out, timedelta(minutes=minutes))
    return saved


async def _complete(  # noqa: PLR0913, PLR0917 the parts of one statement
    conn: AsyncConnection,
    held: Held,
    run: Run,
    reached: datetime,
    left_out: datetime | None,
    pause: timedelta,
) -> None:
    """Record what the finished run adds to the time of which all e-mails are known; the account's row is locked."""
    begin = run.listed_since or run.since
    listed_since = extent.first_listed(held.now, begin) if run.leg == "lists" else None
    searched = extent.Searched(run.since, reached, run.until is None, left_out, listed_since)
    after = extent.extended(await extent.read(conn, held.account, but=run.id), searched)
    given = {
        "complete_since": after.complete_since,
        "watermark": after.watermark,
        "left_out": after.left_out,
        "is_current": not run.is_history,
        "pause": pause,
    }
    await conn.execute(statements.COMPLETE, {**_fence(held), **given})


async def leave_leg(conn: AsyncConnection, held: Held, run: Run, code: str, *, of_account: bool) -> None:
    """Go on with the leg `lists`, from where the run is; raises as `save` does.

    With `of_account`, later runs begin with it too, for a day.
    """
    async with transaction(conn):
        if not (
            await conn.execute(statements.LEAVE, {**_fence(held), "code": code, "of_account": of_account})
        ).rowcount:
            raise lease_lost()
        await conn.execute(statements.CHANGE_LEG, {"id": run.id})


async def note_hour(conn: AsyncConnection, held: Held) -> None:
    """Note that the suspended e-mails were read, and forget old runs."""
    await conn.execute(statements.NOTE_HOUR, _fence(held))
    await conn.execute(statements.TRIM, {"account": held.account, "kept": KEPT})


async def _add(  # noqa: PLR0913, PLR0917 the parts of one transaction
    conn: AsyncConnection,
    held: Held,
    account_id: str,
    page: Page,
    found: Sequence[Discovery],
    saved: Saved,
    status: str,
) -> None:
    """List the comments as Zendesk's, make e-mails of those that are not on record, and mark what Zendesk changed."""
    rows = [
        {
            "account": held.account,
            "account_id": account_id,
            "ticket_id": each[0],
            "comment_id": each[1],
            "created_at": each[2],
        }
        for each in found
    ]
    if rows:
        keys = {
            "tickets": [row["ticket_id"] for row in rows],
            "comments": [row["comment_id"] for row in rows],
        }
        await conn.execute(statements.LOCK_NEW, {"account": held.account, "account_id": account_id, **keys})
        await conn.execute(statements.LIST, rows)
        new = await discovery.add(conn, account_id, found, origin=discovery.BACKFILL, sync_status=status)
        saved.added, saved.jobs = len(new), [Job(email_id, 1) for email_id in new.values()]
    await discovery.mark(conn, account_id, [Mark(*_fields(each)) for each in page.changes])


async def _begin_current(conn: AsyncConnection, account: str, *, actor: str | None, force: bool) -> None:
    given = {"account": account, "actor": actor, "force": force, "first": FIRST, "again": TRY_EVENTS_AGAIN}
    await conn.execute(statements.BEGIN_CURRENT, given)


def _tickets_of(position: Mapping[str, Any] | None) -> dict[str, datetime]:
    """Read the tickets of a position, as `_written` writes them."""
    written = (position or {}).get("tickets", ())
    return {ticket_id: datetime.fromisoformat(since) for ticket_id, since in written}


def _written(tickets: Mapping[str, datetime]) -> dict[str, Any]:
    return {"tickets": [[ticket_id, since.isoformat()] for ticket_id, since in tickets.items()]}


def _distinct(found: Sequence[ListedComment]) -> list[tuple[str, str, datetime]]:
    """Return the comments once each, in the order of all who write them."""
    by_id = {(each.ticket_id, each.comment_id): each.created_at for each in found}
    return [(*key, by_id[key]) for key in sorted(by_id)]


def _fields(change: Change) -> tuple[str, str | None, str]:
    return change.ticket_id, change.comment_id, change.state


def _fence(held: Held) -> dict[str, Any]:
    return {"account": held.account, "number": held.number}
