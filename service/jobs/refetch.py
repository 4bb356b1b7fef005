"""Refetch: files and messages whose object is gone or damaged are fetched again by an attempt of their e-mails."""

from sqlalchemy import CTE, JSON, ColumnElement, and_, cast, func, or_, select, tuple_, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.retries import record_action, reopen_parts, requeue
from service.jobs.waiting import Job
from service.postgres.email_tables import Attachment, IncomingEmail
from service.postgres.message_tables import Message
from service.telemetry.metrics import TRANSITIONS

# The newest e-mails with this content, by file and by message: their addresses are the likeliest to be valid still.
MOST_HOLDERS = 100

_REOPENED = TRANSITIONS.labels("queued", "reconcile")


async def reopen(conn: AsyncConnection, sha256: str, actor: str) -> tuple[int, list[Job]]:
    """Have everything with this content fetched again, and requeue those of the jobs that are finished.

    Stored files become pending. The ticket of a message is looked up again, which stores its record anew; its original is
    asked for again. Waiting jobs do that anyway; running jobs are left alone. Other files stay stored. The hash and the
    key of a lost file stay known, in case that it is found again. Return the number of files and messages, and the
    requeued jobs.
    """
    holders, messages = _holders(sha256), _messages(sha256)
    free = _free(holders, messages)
    retried = requeue(IncomingEmail.id == free.c.id)  # its attempt asks for the ticket again
    # A job that ended while we waited for its lock is in neither set: no attempt would fetch anything.
    waiting = select(free.c.id).where(free.c.status.in_(("received", "queued"))).cte("waiting")
    fetching = union_all(select(retried.c.id), select(waiting.c.id)).cte("fetching")
    files, found = _open_files(holders, fetching, sha256), _found_messages(messages, fetching)
    parts = (
        *reopen_parts(retried),
        *record_action(retried, actor, "retry"),
        _look_up_again(waiting, messages),
        _ask_for_originals(fetching, sha256),
    )
    count = select(func.count()).select_from(files).scalar_subquery() + found
    queued = select(
        cast(func.json_agg(func.json_build_array(retried.c.id, retried.c.attempt_number)), JSON)
    ).scalar_subquery()
    number, jobs = (await conn.execute(select(count, queued).add_cte(*parts))).one()
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


def _messages(sha256: str) -> CTE:
    """Select the messages whose record or original has this content."""
    has_it = or_(Message.record_sha256 == sha256, _has_original(sha256))
    return (
        select(Message.email_id)
        .where(has_it)
        .order_by(Message.email_id.desc())
        .limit(MOST_HOLDERS)
        .cte("messages_of_it")
    )


def _has_original(sha256: str) -> ColumnElement[bool]:
    return and_(Message.original_sha256 == sha256, Message.original == "stored")


def _free(holders: CTE, messages: CTE) -> CTE:
    """Lock those of their e-mails that are not running, and select the state that each has once it is locked."""
    holding = union_all(select(holders.c.email_id), select(messages.c.email_id))
    return (
        select(IncomingEmail.id, IncomingEmail.processing_status.label("status"))
        .where(IncomingEmail.id.in_(holding), IncomingEmail.processing_status != "processing")
        .order_by(IncomingEmail.id)
        .with_for_update()
        .cte("free")
    )


def _open_files(holders: CTE, fetching: CTE, sha256: str) -> CTE:
    place = tuple_(Attachment.email_id, Attachment.position)
    return (
        update(Attachment)
        .where(
            place.in_(select(holders.c.email_id, holders.c.position)),
            Attachment.email_id.in_(select(fetching.c.id)),
            Attachment.status == "stored",
            Attachment.sha256 == sha256,
        )
        .values(status="pending")
        .returning(Attachment.email_id)
        .cte("opened")
    )


def _found_messages(messages: CTE, fetching: CTE) -> ColumnElement[int]:
    theirs = messages.c.email_id.in_(select(fetching.c.id))
    return select(func.count()).select_from(messages).where(theirs).scalar_subquery()


def _look_up_again(waiting: CTE, messages: CTE) -> CTE:
    return (
        update(IncomingEmail)
        .where(IncomingEmail.id.in_(select(waiting.c.id)), IncomingEmail.id.in_(select(messages.c.email_id)))
        .values(looked_up_at=None)
        .returning(IncomingEmail.id)
        .cte("looked_up_again")
    )


def _ask_for_originals(fetching: CTE, sha256: str) -> CTE:
    return (
        update(Message)
        .where(Message.email_id.in_(select(fetching.c.id)), _has_original(sha256))
        .values(original=None)
        .returning(Message.email_id)
        .cte("asked_for")
    )
