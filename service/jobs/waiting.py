"""Jobs that wait: to be rung, and rung."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import BigInteger, ColumnElement, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import RECEIVED, SUSPECT, WAITING, IncomingEmail, in_status
from service.telemetry.metrics import TRANSITIONS

# Who puts a job on record rings at once; only if that came to nothing is it the sweep's turn.
FIRST_RING_GRACE = timedelta(seconds=3)
# A job that was rung and that nobody claimed is rung again, for Redis may have been emptied: soon at
# first, and less often the longer it waits, so that a backlog is not written anew all the time. Within a
# minute of an emptied Redis everything is rung again.
RING_AGAIN = func.least(
    func.greatest(func.now() - IncomingEmail.received_at, timedelta(seconds=10)), timedelta(seconds=45)
)

_DISPATCHED = TRANSITIONS.labels("queued", "dispatch")


@dataclass(frozen=True, slots=True)
class Job:
    """What is rung on the queue: an e-mail, and the number that its next attempt will have."""

    email_id: int
    attempt_number: int


async def mark_queued(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    """Note that these were rung, unless a worker was faster."""
    marked = await conn.execute(
        update(IncomingEmail)
        .where(_are(email_ids, "received"))
        .values(processing_status="queued", due_at=func.now() + RING_AGAIN)
    )
    _DISPATCHED.inc(marked.rowcount)


async def take_due(conn: AsyncConnection, limit: int) -> list[Job]:
    """Take jobs that wait to be rung, and postpone them so that no two sweeps take them.

    The first half are those that were never rung, if there are so many: a backlog must not hold them up. The
    others are what is due, oldest first. Suspects are left to `take_suspects`.
    """
    new = await _take(conn, RECEIVED, (limit + 1) // 2)
    return [*new, *await _take(conn, WAITING, limit - len(new))]


async def next_suspicion(conn: AsyncConnection) -> int | None:
    """Tell how often in a row the suspect was abandoned that is due for longest; None if no suspect is due."""
    return await conn.scalar(
        select(IncomingEmail.abandoned_count)
        .where(text(SUSPECT), IncomingEmail.due_at <= func.now())
        .order_by(IncomingEmail.due_at)
        .limit(1)
    )


async def take_suspects(conn: AsyncConnection, abandoned: int, limit: int) -> list[Job]:
    """Take due jobs that were abandoned exactly so often in a row, and postpone them as `take_due` does."""
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
        .values(due_at=func.now() + RING_AGAIN)
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
    )
    return [Job(email_id, attempts + 1) for email_id, attempts in rows]


async def put_back(conn: AsyncConnection, jobs: Sequence[Job]) -> None:
    """Make jobs due that could not be rung, unless a worker has them by now."""
    await conn.execute(
        update(IncomingEmail)
        .where(_are([job.email_id for job in jobs], "received", "queued"))
        .values(due_at=func.least(IncomingEmail.due_at, func.now()))
    )


def _are(email_ids: Sequence[int], *statuses: str) -> ColumnElement[bool]:
    """Match those that are in one of these states, unless somebody is changing them just now: this waits for nobody."""
    by_id = IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger)))
    free = select(IncomingEmail.id).where(by_id, or_(*map(in_status, statuses)))
    return IncomingEmail.id.in_(free.with_for_update(skip_locked=True).cte("free").select())
