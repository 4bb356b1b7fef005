"""Syncs that are begun anew, one or the next of many, with who wanted it; and those that are let go."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Select,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import bulk_retries
from service.jobs.bulk_retries import Step
from service.postgres.email_tables import FINISHED, TO_SYNC, IncomingEmail
from service.postgres.operation_tables import OperatorAction

# Of those that wait, to see whether somebody tries.
LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class Sync:
    """What is rung: an e-mail, and the version of it that is to be carried."""

    email_id: int
    version: int


async def again(conn: AsyncConnection, email_id: int, actor: str) -> Sync | None:
    """Carry a finished e-mail once more, now and with a fresh budget, and note who wanted it; None if it is not finished."""
    begun = begin(IncomingEmail.id == email_id)
    noted = note(begun, actor)
    row = (await conn.execute(select(begun.c.id, begun.c.attempt_number).add_cte(noted))).one_or_none()
    return Sync(*row) if row else None


async def again_next(conn: AsyncConnection, step: Step, found: Select[Any], stop: Select[Any]) -> list[Sync]:
    """Begin the syncs anew of the next of many, and note in the same statement how far that is; as `retry_next` of jobs."""
    bulk = bulk_retries.held(step)
    free = (
        select(IncomingEmail.id)
        .where(exists(bulk.select()), IncomingEmail.id.in_(select(found.subquery().c.id)), text(FINISHED))
        .order_by(IncomingEmail.id)
        .with_for_update(key_share=True)
        .cte("free")
    )
    begun = begin(IncomingEmail.id == free.c.id)
    moved = bulk_retries.moved(bulk, begun, stop)
    noted = note(begun, step.actor, step.bulk_retry_id)
    rows = await conn.execute(select(begun.c.id, begun.c.attempt_number).add_cte(noted, moved))
    return [Sync(*row) for row in rows]


async def drop(conn: AsyncConnection, limit: int, after: timedelta) -> int:
    """Let go of what has been due for so long, because there is no target any more; return how many that were.

    Of nothing, while others still try: they have a target, which may be away, and behind which all of it waits.
    """
    # Who is tried is due last: again later, or when the lease is over.
    last = (
        select(IncomingEmail.sync_unsettled, IncomingEmail.sync_retry_count)
        .where(text(TO_SYNC), IncomingEmail.sync_due_at > func.now() - after)
        .order_by(IncomingEmail.sync_due_at.desc())
        .limit(LOOKED_AT)
        .cte("last")
    )
    is_tried = exists(last.select().where(or_(last.c.sync_unsettled > 0, last.c.sync_retry_count > 0)))
    due = (
        select(IncomingEmail.id)
        .where(text(TO_SYNC), IncomingEmail.sync_due_at <= func.now() - after, ~is_tried)
        .order_by(IncomingEmail.sync_due_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("due")
    )
    dropped = update(IncomingEmail).where(IncomingEmail.id == due.c.id).values(sync_status="not_applicable")
    return (await conn.execute(dropped)).rowcount


async def job_status(conn: AsyncConnection, email_id: int) -> str | None:
    """Tell the state of the job, which keeps its sync waiting; None if there is no such e-mail."""
    return await conn.scalar(select(IncomingEmail.processing_status).where(IncomingEmail.id == email_id))


def begin(*which: ColumnElement[bool]) -> CTE:
    """Make the part of a statement that begins the sync anew of finished e-mails that match."""
    return (
        update(IncomingEmail)
        .where(*which, text(FINISHED))
        .values(
            sync_status="pending",
            sync_due_at=func.now(),
            sync_begun_at=func.now(),
            # Whoever carries it just now has what was wanted before.
            sync_attempt_number=IncomingEmail.sync_attempt_number
            + case((IncomingEmail.sync_unsettled > 0, 1), else_=0),
            sync_unsettled=0,
            sync_retry_count=0,
            sync_error=None,
            sync_error_code=None,
        )
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
        .cte("begun")
    )


def note(begun: CTE, actor: str, bulk_retry_id: int | None = None) -> CTE:
    """Make the part that notes who wanted it."""
    row = select(literal(actor), literal("sync"), begun.c.id, literal(bulk_retry_id, BigInteger))
    columns = ["actor", "action", "email_id", "bulk_retry_id"]
    return insert(OperatorAction).from_select(columns, row).returning(OperatorAction.id).cte("noted")
