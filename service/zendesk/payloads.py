"""Read a webhook's body: what an admin typed into a trigger, or one of Zendesk's own events."""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from service.zendesk.body import Unreadable, read_json
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID, read_time

# To record many more would outlast the sender's patience.
MOST_ATTACHMENTS = 10_000

_EVENT = "zen:event-type:"
_FILE_LINKED = "zen:event-type:ticket.attachment_linked_to_comment"
_USED_EVENTS = {"zen:event-type:ticket.created", "zen:event-type:ticket.comment_added", _FILE_LINKED}

_UNCLEAN = re.compile("[\x00\ud800-\udfff]")  # what a text column of Postgres refuses
_RFC_2822 = re.compile(
    r"(?:[a-z]{3}, *)?\d{1,2} +[a-z]{3} +\d{4} +\d{1,2}:\d\d(?::\d\d)?"
    r" +(?:[+-]\d{4}|UTC?|GMT|Z|[ECMP][SD]T)(?: *\(.{0,40}\))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that the webhook announced; `url` is "" where it came without an address."""

    url: str
    file_name: str | None
    content_type: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Email:
    """What a webhook says, in texts that Postgres takes; `attachment_urls` alone is as Zendesk sent it."""

    ticket_id: str
    subject: str | None
    from_email: str | None
    from_name: str | None
    sent_at: datetime | None  # the e-mail's own date, aware
    source_id: str | None  # a trigger's `webhook_id`, an event's `id`
    account_id: str | None
    comment_id: str | None
    attachments: tuple[Attachment, ...]
    attachment_urls: list[object] | None  # None where it only points to a comment


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event of a type that we have no use for: acknowledged and counted."""

    event_type: str


def parse(body: bytes, content_type: str = "application/json") -> Email | Ignored:  # noqa: ARG001 not yet
    """Read the body; raises Unreadable and nothing else, whatever the bytes."""
    data = read_json(body)
    if not isinstance(data, dict):
        raise Unreadable("wrong_shape", "The body is JSON, but not an object.")
    kind = data.get("type")
    # No event has a `ticket_id`: with one it is a trigger, whatever it calls itself.
    if not isinstance(kind, str) or not kind.startswith(_EVENT) or _text(data.get("ticket_id")):
        return _read_email(_flatten_trigger(data))
    return _read_email(_flatten_event(data)) if kind in _USED_EVENTS else Ignored(_clean(kind))


def idempotency_key(email: Email | None, headers: Mapping[str, str], body: bytes) -> str:
    """Name the invocation, the same however often it is sent, in at most 200 characters of clean text.

    A `webhook_id` that is the webhook's own is skipped: all its e-mails would be taken for one.
    """
    source_id = email.source_id if email else None
    if source_id and source_id != headers.get(WEBHOOK_ID, "").strip():
        key = source_id
    elif not (key := headers.get(INVOCATION_ID, "").strip()):
        return _hash(headers.get(ACCOUNT_ID, ""), body)
    return _hash(key) if len(key) > 200 or _UNCLEAN.search(key) else key


def _flatten_trigger(data: dict[str, object]) -> dict[str, object]:
    ticket = _object(data, "ticket")
    kept = {"attachments", "comment_id"}  # that they are there tells something, even where they are empty
    filled = {key: value for key, value in data.items() if key in kept or not _is_empty(value)}
    return ticket | filled | {"id": _pick(ticket, "id") or _pick(data, "id")}


def _flatten_event(data: dict[str, object]) -> dict[str, object]:
    """Give an event the keys of a trigger.

    https://developer.zendesk.com/api-reference/webhooks/event-types/ticket-events
    """
    detail, comment = _object(data, "detail"), _object(_object(data, "event"), "comment")
    about = re.fullmatch(r"zen:ticket:(.+)", _text(data.get("subject")) or "", re.DOTALL)
    file = comment.get("attachment")
    if _is_empty(file) and data["type"] == _FILE_LINKED:
        file = data  # there is a file, but not where we look: it has to fail, not to vanish
    return {
        "ticket_id": _pick(detail, "id") or (about and about[1]),
        "subject": detail.get("subject"),
        "from_name": _object(comment, "author").get("name"),
        "received_at": data.get("time"),
        "webhook_id": data.get("id"),
        "account_id": data.get("account_id"),
        "comment_id": comment.get("id"),
        "attachments": [] if _is_empty(file) else [file],
    }


def _read_email(fields: dict[str, object]) -> Email:
    ticket_id = _pick(fields, "ticket_id", "ticketId", "ticketID", "id")
    if ticket_id is None:
        raise Unreadable("no_ticket", "The body names no ticket.")
    if len(ticket_id) > 200:
        raise Unreadable("wrong_shape", "The ticket's id is longer than 200 characters.")
    source_id = fields.get("webhook_id")
    if isinstance(source_id, str) and _UNCLEAN.search(source_id):
        source_id = _hash(source_id)  # cleaned, two ids could become one
    comment_id = _pick(fields, "comment_id")
    attachment_urls = _read_list(fields.get("attachments"))
    attachments = tuple(read_attachment(item) for item in attachment_urls if not _is_empty(item))
    if len(attachments) > MOST_ATTACHMENTS:
        raise Unreadable("wrong_shape", f"There are more than {MOST_ATTACHMENTS:,} attachments.")
    only_points = "comment_id" in fields and "attachments" not in fields
    return Email(
        ticket_id=ticket_id,
        subject=_pick(fields, "subject", "title"),
        from_email=_pick(fields, "from_email"),
        from_name=_pick(fields, "from_name"),
        sent_at=_read_date(_pick(fields, "received_at") or ""),
        source_id=_text(source_id),
        account_id=_pick(fields, "account_id"),
        # "" where a placeholder that Zendesk does not know left it empty: this has files, or not, who knows.
        comment_id=(comment_id or "") if only_points else comment_id,
        attachments=attachments,
        attachment_urls=None if only_points else attachment_urls,
    )


def read_attachment(item: object) -> Attachment:
    """Read an attachment in any of the shapes that templates, events and the API give it."""
    fields = item if isinstance(item, dict) else {"url" if "://" in str(item) else "filename": item}
    size = _pick(fields, "size") or ""
    return Attachment(
        # Where there are both, as in the API's own objects, `url` is the record and not the file.
        url=_pick(fields, "content_url", "url") or "",
        file_name=_pick(fields, "filename", "fileName", "file_name"),
        content_type=_pick(fields, "content_type", "contentType"),
        size=int(size) if re.fullmatch("[0-9]{1,18}", size) else None,
    )


def _read_list(value: object) -> list[object]:
    if isinstance(value, str):  # a template may quote its list, or hold bare addresses
        addresses = [part.strip(",") for part in value.replace(",http", " http").split()]
        if addresses and all(address.startswith(("https://", "http://")) for address in addresses):
            return list(addresses)
        with suppress(Unreadable):
            value = read_json(value)
    if isinstance(value, list):
        return value
    if _is_empty(value):
        return []
    if isinstance(value, dict):
        return [value]
    raise Unreadable("wrong_shape", "`attachments` is neither a list nor an object nor an address.")


def _read_date(text: str) -> datetime | None:
    if _RFC_2822.fullmatch(text):
        with suppress(ValueError, OverflowError):  # 31 February, or an offset that leaves the calendar
            date = parsedate_to_datetime(text)
            return date.replace(tzinfo=date.tzinfo or UTC).astimezone(UTC)
    return read_time(text)


def _object(fields: dict[str, object], name: str) -> dict[str, object]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _pick(fields: dict[str, object], *names: str) -> str | None:
    return next((text for name in names if (text := _text(fields.get(name)))), None)


def _text(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # 123.0 is ticket 123
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return _clean(str(value)).strip() or None


def _clean(text: str) -> str:
    return _UNCLEAN.sub("\ufffd", text)


def _is_empty(value: object) -> bool:
    """Tell what a template leaves where there is nothing: "", null, or an object of these."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _hash(text: str, body: bytes = b"") -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass") + b"\n" + body).hexdigest()
