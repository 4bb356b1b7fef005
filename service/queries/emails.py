"""E-mails: a page of them, one with all its history, one of its files."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from sqlalchemy import BigInteger, Select, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.database import connect
from service.errors import Rejected
from service.models import Attachment, Attempt, IncomingEmail, in_status
from service.queries.pages import TEXT, PageFilter, cut
from service.queries.views import (
    AttachmentView,
    AttemptView,
    EmailDetail,
    EmailPage,
    EmailView,
    ProcessingStatus,
)


class EmailFilter(PageFilter):
    """The parameters of a list."""

    status: ProcessingStatus | None = Field(None, description="those in this state")
    ticket: str | None = Field(
        None, description="those of this ticket", max_length=1000, pattern=TEXT, examples=["35436"]
    )


async def list_emails(engine: AsyncEngine, wanted: EmailFilter) -> EmailPage:
    """Return a page of e-mails, newest first."""
    async with connect(engine) as conn:
        rows, next_cursor = cut((await conn.execute(_page(wanted))).mappings().all(), wanted.limit)
        attachments = await _attachments(conn, [row["id"] for row in rows])
    emails = [EmailView(**row, attachments=attachments.get(row["id"], ())) for row in rows]
    return EmailPage(emails=emails, next_cursor=next_cursor)


async def get_email(engine: AsyncEngine, email_id: int) -> EmailDetail:
    """Return all that is known of an e-mail; raises Rejected (404) if there is none."""
    async with connect(engine) as conn:
        row = (await conn.execute(_emails().where(IncomingEmail.id == email_id))).mappings().one_or_none()
        if row is None:
            raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
        attachments = await _attachments(conn, [email_id])
        attempts = await conn.execute(
            select(*Attempt.__table__.c).where(Attempt.email_id == email_id).order_by(Attempt.number)
        )
        runs = [AttemptView.model_validate(run) for run in attempts]
    return EmailDetail(**row, attachments=attachments.get(email_id, ()), attempts=runs)


async def get_attachment(engine: AsyncEngine, email_id: int, position: int) -> AttachmentView:
    """Return what is known of a file; raises Rejected (404) if there is none."""
    async with connect(engine) as conn:
        for attachment in (await _attachments(conn, [email_id])).get(email_id, ()):
            if attachment.position == position:
                return attachment
    raise Rejected(404, "attachment_not_found", f"E-mail {email_id} has no attachment {position}.")


def _emails() -> Select[Any]:
    heavy = {"raw_body", "raw_headers"}
    return select(*(column for column in IncomingEmail.__table__.c if column.name not in heavy))


def _page(wanted: EmailFilter) -> Select[Any]:
    """Order by what an index can walk: those of a status by time, all others, a ticket's too, by id."""
    query = _emails().limit(wanted.limit + 1)
    after = wanted.after()
    if wanted.status is not None:
        query = query.where(in_status(wanted.status))
    if wanted.ticket is not None:
        query = query.where(IncomingEmail.zendesk_ticket_id == wanted.ticket)
    elif wanted.status is not None:
        place = tuple_(IncomingEmail.received_at, IncomingEmail.id)
        query = query.order_by(IncomingEmail.received_at.desc(), IncomingEmail.id.desc())
        return query.where(place < after) if after else query
    query = query.order_by(IncomingEmail.id.desc())
    return query.where(IncomingEmail.id < after[1]) if after else query


async def _attachments(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, list[AttachmentView]]:
    found: dict[int, list[AttachmentView]] = {}
    # In one parameter, and so one prepared statement for pages of all lengths.
    is_theirs = Attachment.email_id == func.any(literal(email_ids, ARRAY(BigInteger)))
    query = select(*Attachment.__table__.c).where(is_theirs)
    for row in await conn.execute(query.order_by(Attachment.email_id, Attachment.position)):
        found.setdefault(row.email_id, []).append(AttachmentView.model_validate(row))
    return found
