"""Retries: finished jobs, or their syncs, start again with a fresh budget of retries."""

from collections.abc import Sequence

from sqlalchemy import CTE, BigInteger, ColumnElement, case, func, insert, literal, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.waiting import DISPATCH_GRACE, Job, Sync
from service.postgres.email_tables import FINISHED, Attachment, IncomingEmail
from service.postgres.operation_tables import OperatorAction
from service.postgres.selection import What
from service.telemetry.metrics import TRANSITIONS

FINISHED_STATES = ("failed", "completed")

_ACTIONS = {"job": "retry", "sync": "sync"}

_RETRIED = TRANSITIONS.labels("queued", "retry")


async def retry(
    conn: AsyncConnection, email_ids: Sequence[int], actor: str, what: What = "job"
) -> list[Job] | list[Sync]:
    """Retry those of these e-mails that are finished; their history and their stored files stay."""
    finished = lock_finished(IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger))))
    retried, parts = retry_parts(finished, actor, what)
    return await execute_retry(conn, what, retried, parts)


async def status_of(conn: AsyncConnection, email_id: int) -> str | None:
    """Return the state of a job; None if there is no such e-mail."""
    return await conn.scalar(select(IncomingEmail.processing_status).where(IncomingEmail.id == email_id))


def lock_finished(*which: ColumnElement[bool]) -> CTE:
    """Make the part of a statement that locks matching finished e-mails, in the order of their ids."""
    return (
        select(IncomingEmail.id)
        .where(*which, text(FINISHED))
        .order_by(IncomingEmail.id)
        .with_for_update(key_share=True)
        .cte("finished")
    )


def retry_parts(
    finished: CTE, actor: str, what: What, bulk_retry_id: int | None = None
) -> tuple[CTE, list[CTE]]:
    """Make the part of a statement that retries locked e-mails, and the parts that go with it."""
    is_locked = IncomingEmail.id == finished.c.id
    if what == "sync":
        retried = restart_sync(is_locked)
        return retried, [record_action(retried, actor, what, bulk_retry_id)]
    retried = requeue(is_locked)
    return retried, [reopen_failed(retried), record_action(retried, actor, what, bulk_retry_id)]


async def execute_retry(
    conn: AsyncConnection, what: What, retried: CTE, parts: Sequence[CTE]
) -> list[Job] | list[Sync]:
    """Execute a statement of these parts; return the messages to dispatch."""
    rows = (await conn.execute(select(*retried.c["id", "attempt_number"]).add_cte(*parts))).all()
    if what == "sync":
        return [Sync(row.id, row.attempt_number) for row in rows]
    _RETRIED.inc(len(rows))
    return [Job(row.id, row.attempt_number + 1) for row in rows]


def requeue(*which: ColumnElement[bool]) -> CTE:
    """Make the part of a statement that queues matching finished jobs."""
    return (
        update(IncomingEmail)
        .where(*which, text(FINISHED))
        .values(
            processing_status="queued",
            retry_count=0,
            abandoned_count=0,
            due_at=func.now() + DISPATCH_GRACE,
            queued_at=func.now(),
            started_at=None,
            completed_at=None,
            error_code=None,
            error_host=None,
            processing_error=None,
            reread=True,  # a newer parser may find more in the body
        )
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
        .cte("retried")
    )


def restart_sync(*which: ColumnElement[bool]) -> CTE:
    """Make the part of a statement that restarts the syncs of matching finished e-mails."""
    return (
        update(IncomingEmail)
        .where(*which, text(FINISHED))
        .values(
            sync_status="pending",
            sync_due_at=func.now(),
            sync_begun_at=func.now(),
            # A worker that syncs it at this moment has an older document, and can settle nothing any more.
            sync_attempt_number=IncomingEmail.sync_attempt_number
            + case((IncomingEmail.sync_unsettled > 0, 1), else_=0),
            sync_unsettled=0,
            sync_retry_count=0,
            sync_error=None,
            sync_error_code=None,
        )
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
        .cte("retried")
    )


def reopen_failed(retried: CTE) -> CTE:
    """Make the part of a statement that sets the failed files of retried jobs to pending."""
    return (
        update(Attachment)
        .where(Attachment.email_id == retried.c.id, Attachment.status == "failed")
        .values(status="pending", error_code=None, error=None)
        .returning(Attachment.position)
        .cte("reopened")
    )


def record_action(retried: CTE, actor: str, what: What = "job", bulk_retry_id: int | None = None) -> CTE:
    """Make the part of a statement that records which operator asked for these retries."""
    row = select(literal(actor), literal(_ACTIONS[what]), retried.c.id, literal(bulk_retry_id, BigInteger))
    columns = ["actor", "action", "email_id", "bulk_retry_id"]
    return insert(OperatorAction).from_select(columns, row).returning(OperatorAction.id).cte("recorded")
