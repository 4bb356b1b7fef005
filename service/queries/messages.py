"""What e-mails say: their messages, as Zendesk's API or else the webhook told it, and their announcements."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, RowMapping, func, literal, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from service.errors import Permanent, Rejected
from service.postgres.email_tables import IncomingEmail
from service.postgres.engine import connect
from service.postgres.message_tables import Announcement, MergedEmail, Message
from service.postgres.rows import brief
from service.postgres.search import inline_number
from service.queries.views import AnnouncementView, EmailView, MessageView, PersonView, View
from service.queries.webhook_views import RequestView
from service.storage import objects
from service.storage.objects import Storage
from service.zendesk import body_text
from service.zendesk.messages import Body, cut_text, read_record

MAX_ANNOUNCEMENTS = 100  # per e-mail
# The largest record that is read into memory, of which several copies are made. Zendesk's comments are far smaller.
MAX_RECORD_BYTES = 8 * 1024**2
# Bodies of webhooks that are in memory at a time; one has at most MAX_WEBHOOK_BYTES.
_BODIES_AT_A_TIME = 10

_MESSAGE = Message.__table__.c
_SHOWN = (
    *_MESSAGE["email_id", "comment_id", "direction", "public", "subject", "from_address", "from_name", "to"],
    *_MESSAGE["cc", "message_id", "sent_at", "text", "text_size", "has_html", "original", "fetched_at"],
)
_IN_LISTS = _MESSAGE["email_id", "subject", "from_address", "from_name", "sent_at"]
_STORED = (
    *_MESSAGE["record_key", "record_sha256", "record_size"],
    *_MESSAGE["original", "original_key", "original_sha256", "original_size", "original_error_code"],
)
_ANNOUNCED = Announcement.__table__.c["id", "email_id", "received_at", "account_id", "invocation_id", "late"]


class AnnouncementsPage(View):
    """The further webhooks about an e-mail, oldest first; more exist if capped."""

    announcements: Sequence[AnnouncementView]
    capped: bool


@dataclass(frozen=True, slots=True)
class StoredContent:
    """An object of an e-mail, with its hash and its size in bytes."""

    key: str
    sha256: str
    size: int

    async def open(self, storage: Storage) -> AsyncIterator[bytes]:
        """Open the object; its last piece comes only after the hash was compared.

        Raises Permanent (`object_missing`, `object_damaged`) and Transient, also while it is read.
        """
        opened = await objects.open(storage, self.key)
        if opened.size != self.size:
            raise _damaged(self.key)
        return verified(opened.chunks, self)


@dataclass(frozen=True, slots=True)
class MessageContent:
    """A message with the objects that hold all of it; a webhook's message has none, and `announced` is its text.

    `original_error_code` says why there is no original; None while nothing is known of it.
    """

    view: MessageView
    record: StoredContent | None = None
    original: StoredContent | None = None
    announced: str | None = None
    original_error_code: str | None = None

    async def text(self, storage: Storage) -> str:
        """Return the whole text.

        Raises Rejected (404 without a text, 422 if it is too large), and the errors of `StoredContent.open`.
        """
        text = self.announced if self.record is None else self.view.text
        if text is None:
            raise Rejected(404, "message_not_found", "Nothing is known of this e-mail's text.")
        is_cut = self.record is not None and len(text.encode()) < self.view.text_size
        return (await self._read(storage)).text if is_cut else text

    async def html(self, storage: Storage) -> str:
        """Return the HTML as Zendesk gave it; raises as `text` does."""
        html = (await self._read(storage)).html if self.view.has_html else None
        if html is None:
            raise Rejected(404, "message_not_found", "This e-mail has no HTML, or none was fetched.")
        return html

    async def _read(self, storage: Storage) -> Body:
        if self.record is None:
            return Body("", None)
        if self.record.size > MAX_RECORD_BYTES:
            raise Rejected(422, "message_too_large", f"The message has {self.record.size:,} bytes.")
        record = b"".join([chunk async for chunk in await self.record.open(storage)])
        return await asyncio.to_thread(read_record, record)


async def messages_of(conn: AsyncConnection, emails: Sequence[EmailView]) -> dict[int, MessageView]:
    """Return the messages of e-mails by id; none for an e-mail of which nothing is known."""
    theirs = select(*_SHOWN).where(_is_any(Message.email_id, [email.id for email in emails]))
    found = {row["email_id"]: _fetched(row) for row in (await conn.execute(theirs)).mappings()}
    others = [email for email in emails if email.id not in found]
    for start in range(0, len(others), _BODIES_AT_A_TIME):
        some = others[start : start + _BODIES_AT_A_TIME]
        texts = await _announced_texts(conn, [email.id for email in some])
        found.update({email.id: _announced(email, texts.get(email.id)) for email in some})
    return {email_id: message for email_id, message in found.items() if not _is_empty(message)}


async def headers_of(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """Return what `headers` does, of the fetched messages by id; long texts are cut."""
    theirs = select(*brief(_IN_LISTS)).where(_is_any(Message.email_id, email_ids))
    return {
        row.email_id: _as_columns(row.subject, row.sent_at, row.from_name, row.from_address)
        for row in await conn.execute(theirs)
    }


def not_fetched() -> Rejected:
    """Make the error about a record or an original that is not stored."""
    return Rejected(404, "message_not_found", "This part of the message was not fetched from Zendesk.")


def headers(message: MessageView | None) -> Mapping[str, Any]:
    """Return subject, sender and date of a fetched message, as columns of its e-mail; none that it does not tell."""
    if message is None or message.source == "webhook":
        return {}
    sender = message.sender or PersonView(name=None, address=None)
    return _as_columns(message.subject, message.sent_at, sender.name, sender.address)


async def content_of(conn: AsyncConnection, view: MessageView) -> MessageContent:
    """Return the objects of a message."""
    if view.source == "webhook":
        texts = await _announced_texts(conn, [view.email_id])
        return MessageContent(view, announced=texts.get(view.email_id))
    row = (await conn.execute(select(*_STORED).where(Message.email_id == view.email_id))).one()
    record = StoredContent(row.record_key, row.record_sha256, row.record_size)
    if row.original == "stored":
        original = StoredContent(row.original_key, row.original_sha256, row.original_size)
        return MessageContent(view, record, original)
    code = row.original_error_code or "original_not_available" if row.original else None
    return MessageContent(view, record, original_error_code=code)


async def announcements_of(
    conn: AsyncConnection, email_ids: Sequence[int], most: int = MAX_ANNOUNCEMENTS
) -> dict[int, list[AnnouncementView]]:
    """Return the first announcements of each e-mail, oldest first."""
    ids = func.unnest(literal(email_ids, ARRAY(BigInteger)))
    each = ids.table_valued("email_id", name="each").render_derived()
    theirs = select(*brief(_ANNOUNCED), func.octet_length(Announcement.raw_body).label("size"))
    theirs = theirs.where(Announcement.email_id == each.c.email_id).order_by(Announcement.id)
    first = theirs.limit(inline_number(most)).lateral()
    query = select(*first.c).select_from(each.join(first, true())).order_by(first.c.email_id, first.c.id)
    found: dict[int, list[AnnouncementView]] = {}
    for row in await conn.execute(query):
        found.setdefault(row.email_id, []).append(AnnouncementView.model_validate(row))
    return found


async def list_announcements(engine: AsyncEngine, email_id: int) -> AnnouncementsPage:
    """Return the webhooks about an e-mail after its first one; raises Rejected (404)."""
    async with connect(engine) as conn:
        if await conn.scalar(select(IncomingEmail.id).where(IncomingEmail.id == email_id)) is None:
            raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
        found = (await announcements_of(conn, [email_id], MAX_ANNOUNCEMENTS + 1)).get(email_id, [])
    return AnnouncementsPage(announcements=found[:MAX_ANNOUNCEMENTS], capped=len(found) > MAX_ANNOUNCEMENTS)


async def get_announcement(engine: AsyncEngine, email_id: int, number: int) -> RequestView:
    """Return one announcement of an e-mail, byte for byte; raises Rejected (404)."""
    query = select(Announcement.raw_headers, Announcement.raw_body)
    query = query.where(Announcement.id == number, Announcement.email_id == email_id)
    async with connect(engine) as conn:
        row = (await conn.execute(query)).one_or_none()
    if row is None:
        raise Rejected(404, "request_not_found", f"E-mail {email_id} has no announcement {number}.")
    return RequestView.of(row.raw_headers, row.raw_body)


async def merged_into(engine: AsyncEngine, email_id: int) -> int | None:
    """Return the e-mail that this one became part of; None if it was not merged."""
    async with connect(engine) as conn:
        return await conn.scalar(select(MergedEmail.email_id).where(MergedEmail.id == email_id))


def _as_columns(
    subject: str | None, sent_at: datetime | None, name: str | None, address: str | None
) -> Mapping[str, Any]:
    """Address and name come together: those of two sources may be of two people."""
    known: dict[str, Any] = {} if subject is None else {"subject": subject}
    known |= {} if sent_at is None else {"sent_at": sent_at}
    return known | ({"from_email": address, "from_name": name} if address or name else {})


async def _announced_texts(conn: AsyncConnection, email_ids: Sequence[int]) -> dict[int, str | None]:
    """Return the texts in the bodies of the first webhooks."""
    email = IncomingEmail
    bodies = select(email.id, email.raw_headers, email.raw_body).where(_is_any(email.id, email_ids))
    rows = (await conn.execute(bodies.where(email.raw_body.is_not(None)))).all()
    return {
        row.id: await asyncio.to_thread(body_text.read, row.raw_headers or (), row.raw_body) for row in rows
    }


def _announced(email: EmailView, text: str | None) -> MessageView:
    """Make a message of the webhook's facts."""
    return MessageView(
        email_id=email.id,
        source="webhook",
        comment_id=email.comment_id or None,
        direction=None,
        public=None,
        subject=email.subject,
        sender=_person(email.from_name, email.from_email),
        sent_at=email.sent_at,
        text=text and cut_text(text),
        text_size=len((text or "").encode()),
    )


def _fetched(row: RowMapping) -> MessageView:
    """Make a message of the answer of Zendesk's API."""
    same = {name: row[name] for name in MessageView.model_fields if name in row and name not in {"to", "cc"}}
    return MessageView(
        **same,
        source="zendesk",
        sender=_person(row["from_name"], row["from_address"]),
        to=[PersonView(**person) for person in row["to"]],
        cc=[PersonView(**person) for person in row["cc"]],
        has_original=row["original"] == "stored",
    )


def _person(name: str | None, address: str | None) -> PersonView | None:
    return PersonView(name=name, address=address) if name or address else None


def _is_empty(message: MessageView) -> bool:
    is_unknown = message.subject is None and message.sender is None and message.text is None
    return message.source == "webhook" and is_unknown


async def verified(chunks: AsyncIterator[bytes], content: StoredContent) -> AsyncIterator[bytes]:
    """Yield the pieces; raises Permanent instead of the last one if the hash differs."""
    found, size, last = sha256(), 0, b""
    async for chunk in chunks:
        size += len(chunk)
        if size > content.size:
            raise _damaged(content.key)
        await asyncio.to_thread(found.update, chunk)
        if last:
            yield last
        last = chunk
    if found.hexdigest() != content.sha256:
        raise _damaged(content.key)
    if last:
        yield last


def _damaged(key: str) -> Permanent:
    advice = "`holdfast storage verify --fix` fetches it again"
    return Permanent("object_damaged", f"the object {key} is damaged: {advice}")


def _is_any(column: InstrumentedAttribute[int], email_ids: Sequence[int]) -> ColumnElement[bool]:
    # One array parameter, so pages of all lengths share one prepared statement.
    return column == func.any(literal(email_ids, ARRAY(BigInteger)))
