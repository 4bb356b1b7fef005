"""Retries: finished jobs, or their syncs, start again with a fresh budget of retries."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Row,
    Select,
    Text,
    TextClause,
    case,
    func,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.erased import ERASED
from service.jobs.waiting import DISPATCH_GRACE, Job, Sync
from service.postgres import evidence_log
from service.postgres.email_tables import FINISHED, OPEN_FAILED, Attachment, IncomingEmail
from service.postgres.operation_tables import OperatorAction
from service.postgres.selection import What
from service.telemetry.metrics import TRANSITIONS

FINISHED_STATES = ("failed", "completed")

MALWARE_PAUSE, MALWARE_DAYS = timedelta(days=1), timedelta(days=30)

_RETRIED = TRANSITIONS.labels("queued", "retry")


async def retry(
    conn: AsyncConnection, email_ids: Sequence[int], actor: str, what: What = "job"
) -> list[Job] | list[Sync]:
    """Retry those of these e-mails that are finished; their history and their stored files stay."""
    finished = lock_finished(IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger))))
    retried, parts = retry_parts(finished, actor, what)
    return await execute_retry(conn, what, retried, parts)


async def retry_malware(conn: AsyncConnection, limit: int) -> list[Job]:
    """Retry failed e-mails with a file in which Zendesk found malware, each once a day for a month.

    An administrator may have allowed the download since. Dismissed ones stay as they are.
    """
    due = (
        select(IncomingEmail.id)
        .where(
            IncomingEmail.error_code == "malware_found",
            text(OPEN_FAILED),
            IncomingEmail.completed_at < func.now() - MALWARE_PAUSE,
            IncomingEmail.received_at > func.now() - MALWARE_DAYS,
        )
        .order_by(IncomingEmail.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("finished")
    )
    retried = requeue(IncomingEmail.id == due.c.id)
    queued = select(*retried.c["id", "attempt_number"])
    return list(map(_job, (await conn.execute(queued.add_cte(*reopen_parts(retried)))).all()))


async def status_of(conn: AsyncConnection, email_id: int) -> str | None:
    """Return the state of a job; None if there is no such e-mail."""
    return await conn.scalar(select(IncomingEmail.processing_status).where(IncomingEmail.id == email_id))


def _job(row: Row[Any]) -> Job:
    return Job(row.id, row.attempt_number + 1)


def lock_finished(*which: ColumnElement[bool] | TextClause) -> CTE:
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
        return retried, [*record_action(retried, actor, "sync", bulk_retry_id)]
    retried = requeue(is_locked)
    return retried, [*reopen_parts(retried), *record_action(retried, actor, "retry", bulk_retry_id)]


async def execute_retry(
    conn: AsyncConnection, what: What, retried: CTE, parts: Sequence[CTE]
) -> list[Job] | list[Sync]:
    """Execute a statement of these parts; return the messages to dispatch."""
    rows = (await conn.execute(select(*retried.c["id", "attempt_number"]).add_cte(*parts))).all()
    if what == "sync":
        return [Sync(row.id, row.attempt_number) for row in rows]
    _RETRIED.inc(len(rows))
    return list(map(_job, rows))


def requeue(*which: ColumnElement[bool], reread: bool = True) -> CTE:
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
            reread=reread,  # a newer parser may find more in the body
        )
        .returning(
            IncomingEmail.id,
            IncomingEmail.attempt_number,
            evidence_log.column(evidence_log.reopened("incoming_emails")),
        )
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


def reopen_parts(retried: CTE) -> list[CTE]:
    """Make the parts of a statement that go with `requeue`: failed files are pending, and the evidence log knows.

    Erased files stay failed.
    """
    reopened = (
        update(Attachment)
        .where(
            Attachment.email_id == retried.c.id,
            Attachment.status == "failed",
            Attachment.error_code.is_distinct_from(ERASED),
        )
        .values(status="pending", error_code=None, error=None)
        .returning(Attachment.position)
        .cte("reopened")
    )
    entered = evidence_log.entries("reopened", retried, retried.c.id, retried.c.attempt_number)
    return [reopened, entered]


def record_action(
    changed: CTE, actor: str, action: str, bulk_retry_id: int | None = None, reason: str | None = None
) -> list[CTE]:
    """Make the parts of a statement that record which operator did this to each of these e-mails."""
    values = (literal(actor), literal(action), changed.c.id)
    row = select(*values, literal(bulk_retry_id, BigInteger), literal(reason, Text))
    columns = ["actor", "action", "email_id", "bulk_retry_id", "reason"]
    return record_acts(columns, row)


def record_acts(columns: Sequence[str], rows: "Select[*tuple[Any, ...]]") -> list[CTE]:
    """Make the parts of a statement that insert acts of operators, and write them into the evidence log."""
    acts = (
        insert(OperatorAction)
        .from_select(columns, rows)
        .returning(
            OperatorAction.id,
            OperatorAction.email_id,
            evidence_log.column(evidence_log.act("operator_actions")),
        )
        .cte("acts")
    )
    return [acts, evidence_log.entries("act", acts, acts.c.email_id, acts.c.id)]


async def record_act(
    conn: AsyncConnection, actor: str, action: str, *, subject: str | None = None, reason: str | None = None
) -> None:
    """Record one act of an operator that is about no e-mail, and write it into the evidence log."""
    values = (literal(value, Text) for value in (actor, action, subject, reason))
    acts, entered = record_acts(["actor", "action", "subject", "reason"], select(*values))
    await conn.execute(select(acts.c.id).add_cte(entered))
