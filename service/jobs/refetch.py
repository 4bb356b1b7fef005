"""Refetch: files whose object is gone or damaged become pending, and their e-mails are retried."""

from sqlalchemy import CTE, JSON, and_, cast, func, select, tuple_, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.retries import record_action, reopen_failed, requeue
from service.jobs.waiting import Job
from service.postgres.email_tables import Attachment, IncomingEmail
from service.telemetry.metrics import TRANSITIONS

# The newest e-mails with this content: their addresses are the likeliest to be valid still.
MOST_HOLDERS = 100

_REOPENED = TRANSITIONS.labels("queued", "reconcile")


async def reopen(conn: AsyncConnection, sha256: str, actor: str) -> tuple[int, list[Job]]:
    """Set the stored files with this content to pending, and requeue those of their jobs that are finished.

    Waiting jobs fetch the file anyway; running jobs are left alone. Other files stay stored. The hash and the key of
    the lost object stay known, in case that it is found again. Return the number of files and the requeued jobs.
    """
    holders = _holders(sha256)
    free = _free(holders)
    retried = requeue(IncomingEmail.id == free.c.id)
    # A job that ended while we waited for its lock is in neither set: no attempt would fetch its file.
    waiting = select(free.c.id).where(free.c.status.in_(("received", "queued")))
    opened = (
        update(Attachment)
        .where(
            and_(
                tuple_(Attachment.email_id, Attachment.position).in_(
                    select(holders.c.email_id, holders.c.position)
                ),
                Attachment.email_id.in_(union_all(select(retried.c.id), waiting)),
                Attachment.status == "stored",
                Attachment.sha256 == sha256,
            )
        )
        .values(status="pending")
        .returning(Attachment.email_id)
        .cte("opened")
    )
    count = select(func.count()).select_from(opened).scalar_subquery()
    queued = select(cast(func.json_agg(func.json_build_array(*retried.c)), JSON)).scalar_subquery()
    both = select(count, queued).add_cte(reopen_failed(retried), record_action(retried, actor))
    number, jobs = (await conn.execute(both)).one()
    queued_jobs = [Job(email_id, attempt_number + 1) for email_id, attempt_number in jobs or ()]
    _REOPENED.inc(len(queued_jobs))
    return number, queued_jobs


def _holders(sha256: str) -> CTE:
    """Select the stored files with this content; files that failed to be fetched again are left out."""
    file = Attachment.__table__.c
    return (
        select(file.email_id, file.position)
        .where(file.sha256 == sha256, file.status == "stored")
        .order_by(file.email_id.desc())
        .limit(MOST_HOLDERS)
        .cte("holders")
    )


def _free(holders: CTE) -> CTE:
    """Lock those of their e-mails that are not running, and select the state that each has once it is locked."""
    return (
        select(IncomingEmail.id, IncomingEmail.processing_status.label("status"))
        .where(
            IncomingEmail.id.in_(select(holders.c.email_id)),
            IncomingEmail.processing_status != "processing",
        )
        .order_by(IncomingEmail.id)
        .with_for_update()
        .cte("free")
    )
