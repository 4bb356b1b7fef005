"""Jobs that wait for a worker: received ones, to be put on the queue, and queued ones."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import RECEIVED, SUSPECT, WAITING, IncomingEmail, in_status
from service.postgres.prepared import Prepared
from service.telemetry.metrics import TRANSITIONS

# Intake dispatches a new job itself; the sweep does it after this time, if that failed.
DISPATCH_GRACE = timedelta(seconds=3)
# The sweep dispatches a queued job again if no worker claims it, because Redis may have been emptied. It does so soon at
# first, and less often for older jobs, so that a backlog is not rewritten all the time. Within a minute of an emptied
# Redis, all waiting jobs are on the queue again.
DISPATCH_AGAIN = func.least(
    func.greatest(func.now() - IncomingEmail.received_at, timedelta(seconds=10)), timedelta(seconds=45)
)

_DISPATCHED = TRANSITIONS.labels("queued", "dispatch")


@dataclass(frozen=True, slots=True)
class Job:
    """A job to put on the queue: an e-mail, and the number of its next attempt."""

    email_id: int
    attempt_number: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync to put on the queue: an e-mail, and the version of its document."""

    email_id: int
    version: int


async def mark_queued(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    """Mark jobs that were put on the queue, unless a worker claimed them first."""
    [[marked]] = await _MARK.fetch(conn, {"email_ids": email_ids})
    _DISPATCHED.inc(marked)


async def take_due(conn: AsyncConnection, limit: int) -> list[Job]:
    """Take jobs that are due, and postpone them so that no other sweep takes them too.

    The first half are jobs that were never queued, so that a backlog does not delay them. The others are all that are
    due, oldest first. Suspects are left to `take_suspects`.
    """
    new = await _take(conn, RECEIVED, (limit + 1) // 2)
    return [*new, *await _take(conn, WAITING, limit - len(new))]


async def next_abandoned_count(conn: AsyncConnection) -> int | None:
    """Return how often in a row the longest due suspect was abandoned; None if no suspect is due."""
    return await conn.scalar(
        select(IncomingEmail.abandoned_count)
        .where(text(SUSPECT), IncomingEmail.due_at <= func.now())
        .order_by(IncomingEmail.due_at)
        .limit(1)
    )


async def take_suspects(conn: AsyncConnection, abandoned: int, limit: int) -> list[Job]:
    """Take due suspects with exactly this number of abandoned attempts in a row; postpone them as `take_due` does."""
    return await _take(conn, SUSPECT, limit, abandoned)


async def _take(conn: AsyncConnection, state: str, limit: int, abandoned: int = 0) -> list[Job]:
    due = (
        select(IncomingEmail.id)
        .where(text(state), IncomingEmail.due_at <= func.now(), IncomingEmail.abandoned_count == abandoned)
        .order_by(IncomingEmail.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    rows = await conn.execute(
        update(IncomingEmail)
        .where(IncomingEmail.id == due.c.id)
        .values(due_at=func.now() + DISPATCH_AGAIN)
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
    )
    return [Job(email_id, attempts + 1) for email_id, attempts in rows]


async def put_back(conn: AsyncConnection, jobs: Sequence[Job]) -> None:
    """Make jobs due that could not be put on the queue, unless a worker has claimed them."""
    await conn.execute(
        update(IncomingEmail)
        .where(_are("received", "queued"))
        .values(due_at=func.least(IncomingEmail.due_at, func.now())),
        {"email_ids": [job.email_id for job in jobs]},
    )


async def lock(
    conn: AsyncConnection, email_ids: Collection[int], *, for_delete: bool = False
) -> Sequence[int]:
    """Lock e-mails in the order of ids, as all statements over many e-mails do; return those that exist.

    Rows that refer to them may be inserted meanwhile, unless the lock is one `for_delete`.
    """
    statement = _LOCK_FOR_DELETE if for_delete else _LOCK
    return (await conn.scalars(statement, {"email_ids": sorted(set(email_ids))})).all()


def _are(*statuses: str) -> ColumnElement[bool]:
    """Match the e-mails of `email_ids` in one of these states; skip the locked ones instead of waiting for them."""
    free = select(IncomingEmail.id).where(_BY_ID, or_(*map(in_status, statuses)))
    return IncomingEmail.id.in_(free.with_for_update(skip_locked=True).cte("free").select())


def _mark() -> Select[int]:
    """Build the statement that marks received e-mails as queued; it returns how many."""
    marked = (
        update(IncomingEmail)
        .where(_are("received"))
        .values(processing_status="queued", due_at=func.now() + DISPATCH_AGAIN)
        .returning(IncomingEmail.id)
        .cte("marked")
    )
    return select(func.count()).select_from(marked)


_BY_ID = IncomingEmail.id == func.any(bindparam("email_ids", type_=ARRAY(BigInteger)))
_ROWS = select(IncomingEmail.id).where(_BY_ID).order_by(IncomingEmail.id)
# Built once: building a statement takes longer than running it.
_MARK = Prepared(_mark())
_LOCK, _LOCK_FOR_DELETE = _ROWS.with_for_update(key_share=True), _ROWS.with_for_update()
