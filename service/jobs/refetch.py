"""Files whose object is gone or damaged: they are open again, and their e-mails are run again, to fetch them anew."""

from sqlalchemy import CTE, JSON, and_, cast, func, select, tuple_, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.retries import note, queue_again, reopen_failed
from service.jobs.waiting import Job
from service.postgres.email_tables import Attachment, IncomingEmail
from service.telemetry.metrics import TRANSITIONS

# E-mails that have one content, the newest: their addresses are the likeliest to work still.
MOST_HOLDERS = 100

_REOPENED = TRANSITIONS.labels("queued", "reconcile")


async def reopen(conn: AsyncConnection, sha256: str, actor: str) -> tuple[int, list[Job]]:
    """Open the files that have this content, and queue the jobs of their e-mails if they were finished.

    Those that wait will fetch it anyway; of those that run at this moment, nothing is opened. Other files stay stored.
    What a file had stays on record, to be known when it is found again. Return how many files were opened, and the
    jobs that were queued.
    """
    holders = _holders(sha256)
    free = _free(holders)
    again = queue_again(IncomingEmail.id == free.c.id)
    # Whoever ended while we waited for its lock is neither queued again nor waits: nobody would fetch its file.
    waiting = select(free.c.id).where(free.c.status.in_(("received", "queued")))
    opened = (
        update(Attachment)
        .where(
            and_(
                tuple_(Attachment.email_id, Attachment.position).in_(
                    select(holders.c.email_id, holders.c.position)
                ),
                Attachment.email_id.in_(union_all(select(again.c.id), waiting)),
                Attachment.status == "stored",
                Attachment.sha256 == sha256,
            )
        )
        .values(status="pending")
        .returning(Attachment.email_id)
        .cte("opened")
    )
    count = select(func.count()).select_from(opened).scalar_subquery()
    queued = select(cast(func.json_agg(func.json_build_array(*again.c)), JSON)).scalar_subquery()
    both = select(count, queued).add_cte(reopen_failed(again), note(again, actor, None))
    number, jobs = (await conn.execute(both)).one()
    queued_jobs = [Job(email_id, attempt_number + 1) for email_id, attempt_number in jobs or ()]
    _REOPENED.inc(len(queued_jobs))
    return number, queued_jobs


def _holders(sha256: str) -> CTE:
    """Find the files that have a content; who had it, and could not have it again, is asked no more."""
    file = Attachment.__table__.c
    return (
        select(file.email_id, file.position)
        .where(file.sha256 == sha256, file.status == "stored")
        .order_by(file.email_id.desc())
        .limit(MOST_HOLDERS)
        .cte("holders")
    )


def _free(holders: CTE) -> CTE:
    """Lock those of their e-mails that do not run; the state of each is that which it has when it is locked."""
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
