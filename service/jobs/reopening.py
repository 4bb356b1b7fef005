"""Files whose object is gone or damaged: they are open again, and their e-mails are run again, to fetch them anew."""

from sqlalchemy import and_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.again import FINISHED, note, queue_again, reopen_failed
from service.jobs.waiting import Job
from service.metrics import TRANSITIONS
from service.models import Attachment, IncomingEmail

# E-mails that have one content, the newest: their addresses are the likeliest to work still.
MOST_HOLDERS = 100
_EMPTY = ("sha256", "size", "detected_type", "object_key", "stored_at", "error_code", "error")

_REOPENED = TRANSITIONS.labels("queued", "reconcile")


async def reopen(conn: AsyncConnection, sha256: str, actor: str) -> list[Job]:
    """Queue the finished jobs whose e-mails have this content, and let them fetch it again; other files stay stored."""
    file = Attachment.__table__.c
    holders = (
        select(file.email_id, file.position)
        .where(file.sha256 == sha256)
        .order_by(file.email_id.desc())
        .limit(MOST_HOLDERS)
        .cte("holders")
    )
    free = (
        select(IncomingEmail.id)
        .where(
            IncomingEmail.id.in_(select(holders.c.email_id)),
            IncomingEmail.processing_status.in_(FINISHED),
        )
        .order_by(IncomingEmail.id)
        .with_for_update()
        .cte("free")
    )
    again = queue_again(IncomingEmail.id == free.c.id)
    opened = (
        update(Attachment)
        .where(
            and_(
                tuple_(Attachment.email_id, Attachment.position).in_(
                    select(holders.c.email_id, holders.c.position)
                ),
                Attachment.email_id.in_(select(again.c.id)),
                Attachment.status == "stored",
            )
        )
        .values(status="pending", **dict.fromkeys(_EMPTY))
        .returning(Attachment.email_id)
        .cte("opened")
    )
    statement = select(again).add_cte(opened, reopen_failed(again), note(again, actor, None))
    rows = (await conn.execute(statement)).all()
    _REOPENED.inc(len(rows))
    return [Job(row.id, row.attempt_number + 1) for row in rows]
