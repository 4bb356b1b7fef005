"""E-mails: pages of them, one with its history, and its files."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, ColumnElement, bindparam, func, literal, select, text, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from service.errors import Rejected
from service.postgres.email_tables import Attachment, Attempt, IncomingEmail
from service.postgres.engine import connect
from service.postgres.held_emails import holds_on
from service.postgres.rows import brief
from service.postgres.search import LIGHT, Count, Cursor, count, inline_number, search
from service.postgres.selection import Selection
from service.queries import messages
from service.queries.actions import actions_on
from service.queries.matches import with_matches
from service.queries.pages import PageFilter, cursor_at, cut
from service.queries.views import (
    AttachmentView,
    AttemptView,
    EmailDetail,
    EmailPage,
    EmailView,
    HoldersPage,
    HolderView,
    MessageHolderView,
)
from service.queries.webhook_views import RequestView

MAX_HOLDERS = 100
MAX_FILES = 100  # per e-mail in a list


class EmailFilter(PageFilter, Selection):
    """The parameters of a list."""


async def list_emails(engine: AsyncEngine, wanted: EmailFilter) -> EmailPage:
    """Return a page of e-mails, newest first; the first page has the total.

    Long texts are cut, and each e-mail has its first MAX_FILES files. A page may end early, or be empty, and still have
    a cursor: the search is bounded, and has reached `searched_to`.
    """
    after = wanted.after()
    async with connect(engine) as conn:
        way = await search(conn, wanted, after)
        found = (await conn.execute(way.found(wanted.limit + 1, is_brief=True))).mappings().all()
        rows, next_cursor = cut(found, wanted.limit)
        end = None if next_cursor else (await conn.execute(way.end())).one_or_none()
        total = (
            await count(conn, wanted, step=way)
            if next_cursor and not after
            else Count(len(rows), end is not None)
        )
        email_ids = [row["id"] for row in rows]
        attachments = await _first_attachments(conn, email_ids)
        headers = await messages.headers_of(conn, email_ids)
        listed = [
            EmailView(**{**row, **headers.get(row["id"], {})}, attachments=attachments.get(row["id"], ()))
            for row in rows
        ]
        if wanted.q is not None:
            listed = await with_matches(conn, wanted.q, listed)
    return EmailPage(
        emails=listed,
        next_cursor=cursor_at(Cursor(*end)) if end else next_cursor,
        searched_to=end.received_at if end else None,
        total=None if after else total.number,
        total_capped=not after and total.is_capped,
    )


async def get_email(engine: AsyncEngine, email_id: int) -> EmailDetail:
    """Return an e-mail with its message and its history; raises Rejected (404)."""
    async with connect(engine) as conn:
        return await _get_email(conn, email_id)


async def get_content(
    engine: AsyncEngine, email_id: int
) -> tuple[EmailDetail, messages.MessageContent | None]:
    """Return an e-mail, and its message with all of its text; None if nothing is known of it. Raises Rejected (404)."""
    async with connect(engine) as conn:
        email = await _get_email(conn, email_id)
        return email, await messages.content_of(conn, email.message) if email.message else None


async def content_of(engine: AsyncEngine, email: EmailDetail) -> messages.MessageContent | None:
    """Return an e-mail's message with all of its text; None if nothing is known of it."""
    if email.message is None:
        return None
    async with connect(engine) as conn:
        return await messages.content_of(conn, email.message)


async def list_details(engine: AsyncEngine, wanted: EmailFilter) -> tuple[EmailPage, Sequence[EmailDetail]]:
    """Return a page of `list_emails`, and each of its e-mails with its history and whole texts."""
    page = await list_emails(engine, wanted)
    email_ids = [email.id for email in page.emails]
    query = select(*LIGHT).where(_in(IncomingEmail.id, email_ids))
    async with connect(engine) as conn:
        attachments = await _attachments(conn, email_ids)
        rows = {row["id"]: row for row in (await conn.execute(query)).mappings()}
        emails = [EmailView(**rows[n], attachments=attachments.get(n, ())) for n in email_ids if n in rows]
        return page, await _in_detail(conn, emails)


async def get_request(engine: AsyncEngine, email_id: int) -> RequestView:
    """Return the original webhook of an e-mail; raises Rejected (404), also if it was never saved."""
    request = select(IncomingEmail.raw_headers, IncomingEmail.raw_body).where(IncomingEmail.id == email_id)
    async with connect(engine) as conn:
        row = (await conn.execute(request)).one_or_none()
    if row is None or row.raw_body is None:
        raise Rejected(404, "request_not_found", f"There is no request of an e-mail {email_id}.")
    return RequestView.of(row.raw_headers, row.raw_body)


async def list_holders(engine: AsyncEngine, sha256: str) -> HoldersPage:
    """Return the files and messages with this content, newest first, at most 100 of each; raises Rejected (404)."""
    theirs = select(*brief(Attachment.__table__.c)).where(Attachment.sha256 == sha256)
    async with connect(engine) as conn:
        rows = (await conn.execute(theirs.order_by(Attachment.email_id.desc()).limit(MAX_HOLDERS + 1))).all()
        parts = (await conn.execute(_MESSAGES_WITH, {"sha256": sha256, "most": MAX_HOLDERS + 1})).all()
    if not (rows or parts):
        raise Rejected(404, "content_not_found", f"No e-mail has a file with the SHA-256 {sha256}.")
    return HoldersPage(
        sha256=sha256,
        holders=[HolderView.model_validate(row) for row in rows[:MAX_HOLDERS]],
        messages=[MessageHolderView.model_validate(row) for row in parts[:MAX_HOLDERS]],
        capped=max(len(rows), len(parts)) > MAX_HOLDERS,
    )


async def get_attachment(engine: AsyncEngine, email_id: int, position: int) -> AttachmentView:
    """Return a file of an e-mail; raises Rejected (404)."""
    async with connect(engine) as conn:
        for attachment in (await _attachments(conn, [email_id])).get(email_id, ()):
            if attachment.position == position:
                return attachment
    raise Rejected(404, "attachment_not_found", f"E-mail {email_id} has no attachment {position}.")


async def _get_email(conn: AsyncConnection, email_id: int) -> EmailDetail:
    found = await conn.execute(select(*LIGHT).where(IncomingEmail.id == email_id))
    row = found.mappings().one_or_none()
    if row is None:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
    email = EmailView(**row, attachments=(await _attachments(conn, [email_id])).get(email_id, ()))
    return (await _in_detail(conn, [email]))[0]


async def _in_detail(conn: AsyncConnection, emails: Sequence[EmailView]) -> list[EmailDetail]:
    email_ids = [email.id for email in emails]
    attempts: dict[int, list[AttemptView]] = {}
    theirs = select(*Attempt.__table__.c).where(_in(Attempt.email_id, email_ids))
    for row in await conn.execute(theirs.order_by(Attempt.email_id, Attempt.number)):
        attempts.setdefault(row.email_id, []).append(AttemptView.model_validate(row))
    did = await actions_on(conn, email_ids)
    said = await messages.messages_of(conn, emails)
    announced = await messages.announcements_of(conn, email_ids)
    held = await holds_on(conn, email_ids)
    return [
        EmailDetail(
            **{**dict(email), **messages.headers(said.get(email.id))},
            message=said.get(email.id),
            announcements=announced.get(email.id, ()),
            attempts=attempts.get(email.id, ()),
            actions=did.get(email.id, ()),
            held_by=held.get(email.id, ()),
        )
        for email in emails
    ]


async def _attachments(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, list[AttachmentView]]:
    found: dict[int, list[AttachmentView]] = {}
    query = select(*Attachment.__table__.c).where(_in(Attachment.email_id, email_ids))
    for row in await conn.execute(query.order_by(Attachment.email_id, Attachment.position)):
        found.setdefault(row.email_id, []).append(AttachmentView.model_validate(row))
    return found


async def _first_attachments(
    conn: AsyncConnection, email_ids: Sequence[int]
) -> dict[int, list[AttachmentView]]:
    """Return the first files of each e-mail, for a list."""
    ids = func.unnest(literal(email_ids, ARRAY(BigInteger)))
    each = ids.table_valued("email_id", name="each").render_derived()
    theirs = select(*brief(Attachment.__table__.c)).where(Attachment.email_id == each.c.email_id)
    first = theirs.order_by(Attachment.position).limit(inline_number(MAX_FILES)).lateral()
    query = select(*first.c).select_from(each.join(first, true()))
    found: dict[int, list[AttachmentView]] = {}
    for row in await conn.execute(query.order_by(first.c.email_id, first.c.position)):
        found.setdefault(row.email_id, []).append(AttachmentView.model_validate(row))
    return found


def _in(column: InstrumentedAttribute[int], email_ids: Sequence[int]) -> ColumnElement[bool]:
    # One array parameter, so pages of all lengths share one prepared statement.
    return column == func.any(literal(email_ids, ARRAY(BigInteger)))


_MESSAGES_WITH = text("""
SELECT * FROM (
    (SELECT email_id, 'record' AS part, record_size AS size FROM messages
        WHERE record_sha256 = :sha256 ORDER BY email_id DESC LIMIT :most)
    UNION ALL
    (SELECT email_id, 'original', original_size FROM messages
        WHERE original_sha256 = :sha256 ORDER BY email_id DESC LIMIT :most)
) AS found ORDER BY email_id DESC LIMIT :most
""").bindparams(bindparam("most", type_=BigInteger()))
