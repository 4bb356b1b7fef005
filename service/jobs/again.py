"""Jobs that are run again: one, or the next of all that match; each with who wanted it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Row,
    Select,
    case,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.waiting import FIRST_RING_GRACE, Job
from service.metrics import TRANSITIONS
from service.models import Attachment, IncomingEmail
from service.operations import BulkRetry, OperatorAction

FINISHED = ("failed", "completed")
# The pause between two steps of a retry of many.
STEP = timedelta(seconds=1)

_RETRIED = TRANSITIONS.labels("queued", "retry")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a retry of many: of which, and from where on."""

    bulk_retry_id: int
    actor: str
    place_id: int | None


async def retry(conn: AsyncConnection, email_id: int, actor: str) -> Job | None:
    """Queue a finished job again with a fresh budget; its history and its stored files stay."""
    again = queue_again(IncomingEmail.id == email_id)
    noted = note(again, actor, None)
    row = (await conn.execute(select(again).add_cte(reopen_failed(again), noted))).one_or_none()
    if row is None:
        return None
    _RETRIED.inc()
    return Job(row.id, row.attempt_number + 1)


async def status_of(conn: AsyncConnection, email_id: int) -> str | None:
    """Tell the state of a job; None if there is no such e-mail."""
    return await conn.scalar(select(IncomingEmail.processing_status).where(IncomingEmail.id == email_id))


async def retry_next(conn: AsyncConnection, step: Step, found: Select[Any], stop: Select[Any]) -> list[Job]:
    """Queue the next of many again, and note in the same statement how far that is.

    `found` gives the e-mails, and `stop` the place at which the walk stops that finds them, if there is more of
    it. Somebody who took the same step, or cancelled it, may be first: then nothing is done.
    """
    mine = (BulkRetry.id == step.bulk_retry_id, BulkRetry.status == "running")
    here = BulkRetry.place_id.is_not_distinct_from(step.place_id)
    bulk = select(BulkRetry.id).where(*mine, here).with_for_update().cte("bulk")
    free = (
        select(IncomingEmail.id)
        .where(
            exists(bulk.select()),
            IncomingEmail.id.in_(select(found.subquery().c.id)),
            IncomingEmail.processing_status.in_(FINISHED),
        )
        .order_by(IncomingEmail.id)
        .with_for_update()
        .cte("free")
    )
    again = queue_again(IncomingEmail.id == free.c.id)
    moved = _move(bulk, again, stop)
    noted = note(again, step.actor, step.bulk_retry_id)
    rows = (await conn.execute(select(again).add_cte(reopen_failed(again), noted, moved))).all()
    _RETRIED.inc(len(rows))
    return [Job(row.id, row.attempt_number + 1) for row in rows]


async def begin(conn: AsyncConnection, **columns: object) -> int:
    """Record a retry of many, and who wants it; return its id."""
    new = insert(BulkRetry).values(**columns).returning(BulkRetry.id, BulkRetry.actor).cte("new")
    noted = _note_bulk(new, "retry_many")
    return int((await conn.execute(select(new.c.id).add_cte(noted))).scalar_one())


async def cancel(conn: AsyncConnection, bulk_retry_id: int, actor: str) -> bool:
    """Let no further step be taken; False where it is not running."""
    ended = (
        update(BulkRetry)
        .where(BulkRetry.id == bulk_retry_id, BulkRetry.status == "running")
        .values(status="cancelled", finished_at=func.now())
        .returning(BulkRetry.id, literal(actor).label("actor"))
        .cte("ended")
    )
    return bool(await conn.scalar(select(ended.c.id).add_cte(_note_bulk(ended, "cancel_retry_many"))))


async def status_of_bulk(conn: AsyncConnection, bulk_retry_id: int) -> str | None:
    """Tell the state of a retry of many; None if there is none."""
    return await conn.scalar(select(BulkRetry.status).where(BulkRetry.id == bulk_retry_id))


async def take_bulk(conn: AsyncConnection, patience: timedelta) -> Row[Any] | None:
    """Take a retry of many of which a step is due; whoever takes it has `patience` to do it."""
    due = (
        select(BulkRetry.id)
        .where(BulkRetry.status == "running", BulkRetry.next_at <= func.now())
        .order_by(BulkRetry.next_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    taken = update(BulkRetry).where(BulkRetry.id == due.c.id).values(next_at=func.now() + patience)
    return (await conn.execute(taken.returning(*BulkRetry.__table__.c))).one_or_none()


def queue_again(which: ColumnElement[bool]) -> CTE:
    """Make the part of a statement that queues finished jobs that match."""
    return (
        update(IncomingEmail)
        .where(which, IncomingEmail.processing_status.in_(FINISHED))
        .values(
            processing_status="queued",
            retry_count=0,
            due_at=func.now() + FIRST_RING_GRACE,
            started_at=None,
            completed_at=None,
            error_code=None,
            error_host=None,
            processing_error=None,
        )
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
        .cte("again")
    )


def reopen_failed(again: CTE) -> CTE:
    """Make the part that has their failed files fetched again."""
    return (
        update(Attachment)
        .where(Attachment.email_id == again.c.id, Attachment.status == "failed")
        .values(status="pending", error_code=None, error=None)
        .returning(Attachment.position)
        .cte("reopened")
    )


def _move(bulk: CTE, again: CTE, stop: Select[Any]) -> CTE:
    """Note how many were queued and where the walk stands; where nothing is left, it is done."""
    place = stop.cte("place")
    more = exists(place.select())
    return (
        update(BulkRetry)
        .where(BulkRetry.id == bulk.c.id)
        .values(
            retried=BulkRetry.retried + select(func.count()).select_from(again).scalar_subquery(),
            place_time=func.coalesce(select(place.c.received_at).scalar_subquery(), BulkRetry.place_time),
            place_id=func.coalesce(select(place.c.id).scalar_subquery(), BulkRetry.place_id),
            next_at=func.now() + STEP,
            status=case((more, "running"), else_="done"),
            finished_at=case((~more, func.now())),
        )
        .returning(BulkRetry.id)
        .cte("moved")
    )


def note(again: CTE, actor: str, bulk_retry_id: int | None) -> CTE:
    """Make the part that notes who wanted it."""
    row = select(literal(actor), literal("retry"), again.c.id, literal(bulk_retry_id, BigInteger))
    columns = ["actor", "action", "email_id", "bulk_retry_id"]
    return insert(OperatorAction).from_select(columns, row).returning(OperatorAction.id).cte("noted")


def _note_bulk(bulk: CTE, action: str) -> CTE:
    row = select(bulk.c.actor, literal(action), bulk.c.id)
    noted = insert(OperatorAction).from_select(["actor", "action", "bulk_retry_id"], row)
    return noted.returning(OperatorAction.id).cte("noted")
