"""Jobs that are run again: one, or the next of all that match; each with who wanted it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, BigInteger, ColumnElement, Select, exists, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import bulk_retries
from service.jobs.bulk_retries import Step
from service.jobs.waiting import FIRST_RING_GRACE, Job
from service.postgres.email_tables import Attachment, IncomingEmail
from service.postgres.operation_tables import OperatorAction
from service.telemetry.metrics import TRANSITIONS

FINISHED = ("failed", "completed")

_RETRIED = TRANSITIONS.labels("queued", "retry")


async def retry(conn: AsyncConnection, email_id: int, actor: str) -> Job | None:
    """Queue a finished job again with a fresh budget; its history and its stored files stay."""
    again = queue_again(IncomingEmail.id == email_id)
    noted = note(again, actor, None)
    row = (await conn.execute(select(again).add_cte(reopen_failed(again), noted))).one_or_none()
    if row is None:
        return None
    _RETRIED.inc()
    return Job(row.id, row.attempt_number + 1)


async def retry_these(conn: AsyncConnection, email_ids: Sequence[int], actor: str) -> list[Job]:
    """Queue those of these jobs again that are finished, as `retry` does with one."""
    free = (
        select(IncomingEmail.id)
        .where(
            IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger))),
            IncomingEmail.processing_status.in_(FINISHED),
        )
        .order_by(IncomingEmail.id)
        .with_for_update()
        .cte("free")
    )
    again = queue_again(IncomingEmail.id == free.c.id)
    noted = note(again, actor, None)
    rows = (await conn.execute(select(again).add_cte(reopen_failed(again), noted))).all()
    _RETRIED.inc(len(rows))
    return [Job(row.id, row.attempt_number + 1) for row in rows]


async def status_of(conn: AsyncConnection, email_id: int) -> str | None:
    """Tell the state of a job; None if there is no such e-mail."""
    return await conn.scalar(select(IncomingEmail.processing_status).where(IncomingEmail.id == email_id))


async def retry_next(conn: AsyncConnection, step: Step, found: Select[Any], stop: Select[Any]) -> list[Job]:
    """Queue the next of many again, and note in the same statement how far that is.

    `found` gives the e-mails, and `stop` the place at which the walk stops that finds them, if there is more of
    it. Somebody who took the same step, or cancelled it, may be first: then nothing is done.
    """
    bulk = bulk_retries.held(step)
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
    moved = bulk_retries.moved(bulk, again, stop)
    noted = note(again, step.actor, step.bulk_retry_id)
    rows = (await conn.execute(select(again).add_cte(reopen_failed(again), noted, moved))).all()
    _RETRIED.inc(len(rows))
    return [Job(row.id, row.attempt_number + 1) for row in rows]


def queue_again(which: ColumnElement[bool]) -> CTE:
    """Make the part of a statement that queues finished jobs that match."""
    return (
        update(IncomingEmail)
        .where(which, IncomingEmail.processing_status.in_(FINISHED))
        .values(
            processing_status="queued",
            retry_count=0,
            abandoned_count=0,
            due_at=func.now() + FIRST_RING_GRACE,
            queued_at=func.now(),
            started_at=None,
            completed_at=None,
            error_code=None,
            error_host=None,
            processing_error=None,
            reread=True,  # the parser may have learned something since
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


def note(again: CTE, actor: str, bulk_retry_id: int | None) -> CTE:
    """Make the part that notes who wanted it."""
    row = select(literal(actor), literal("retry"), again.c.id, literal(bulk_retry_id, BigInteger))
    columns = ["actor", "action", "email_id", "bulk_retry_id"]
    return insert(OperatorAction).from_select(columns, row).returning(OperatorAction.id).cte("noted")
