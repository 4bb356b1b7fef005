"""Read a webhook's body: a template of a trigger, or one of Zendesk's own events."""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from service.zendesk.body import Unreadable, clean, is_blank, is_clean, read_body, text_of
from service.zendesk.files import MOST_ATTACHMENTS, AnnouncedFile, read_attachment
from service.zendesk.names import Name, name_of
from service.zendesk.search import FoundFiles, search
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID, read_time

__all__ = [
    "MOST_ATTACHMENTS",
    "AnnouncedFile",
    "Email",
    "Ignored",
    "idempotency_key",
    "parse",
    "read_attachment",
]

_EVENT = "zen:event-type:"
_FILE_LINKED = "zen:event-type:ticket.attachment_linked_to_comment"
_USED_EVENTS = {"zen:event-type:ticket.created", "zen:event-type:ticket.comment_added", _FILE_LINKED}

# Members that hold what the webhook is about.
_WRAPPERS = {
    *("data", "payload", "event", "detail", "details", "body", "content", "message", "zendesk", "comment")
}
_NUMBER_SIGN = re.compile(r"^# ?(?=[0-9]+$)")
_RFC_2822 = re.compile(
    r"(?:[a-z]{3}, *)?\d{1,2} +[a-z]{3} +\d{4} +\d{1,2}:\d\d(?::\d\d)?"
    r" +(?:[+-]\d{4}|UTC?|GMT|Z|[ECMP][SD]T)(?: *\(.{0,40}\))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Email:
    """The content of a webhook, in texts that Postgres accepts; only `attachment_urls` is unchanged."""

    ticket_id: str
    subject: str | None
    from_email: str | None
    from_name: str | None
    sent_at: datetime | None  # the e-mail's own date, aware
    source_id: str | None  # a trigger's `webhook_id`, an event's `id`
    account_id: str | None
    # The id of the e-mail's comment, in digits. "" if its files have to be looked up and the body names no
    # comment.
    comment_id: str | None
    attachments: tuple[AnnouncedFile, ...]  # every file in the body, each address once
    # The body's list of files, or [] if it says that there are none. None if the list is incomplete, or a
    # file has no address: then the files have to be looked up in Zendesk.
    attachment_urls: list[object] | None


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event of an unused type: acknowledged and counted."""

    event_type: str


def parse(body: bytes, content_type: str = "application/json") -> Email | Ignored:
    """Read the body; raises Unreadable and nothing else, for any bytes.

    `content_type` is the media type without parameters. JSON is read under any media type.
    """
    data = read_body(body, content_type)
    if not isinstance(data, dict):
        raise Unreadable("wrong_shape", "The body is JSON, but not an object.")
    kind = data.get("type")
    ticket_id = _ticket_id(data)
    # No event has a `ticket_id`: a body with one is a trigger's, even with the type of an event.
    if ticket_id or not isinstance(kind, str) or not kind.startswith(_EVENT):
        return _read_email(_flatten_trigger(data, ticket_id), search(data))
    if kind not in _USED_EVENTS and not any(name_of(key).is_trigger for key in data):
        if _is_whole_event(data):
            return Ignored(clean(kind))
        raise Unreadable(
            "wrong_shape", "The body has the type of an event, but lacks the fields of an event."
        )
    found = search(data)
    fields = _flatten_event(data)
    if kind == _FILE_LINKED and not found.attachments:
        found = FoundFiles(
            (), None, found.comment_id
        )  # the event announces a file that the search did not find
    return _read_email(fields, found)


def idempotency_key(email: Email | None, headers: Mapping[str, str], body: bytes) -> str:
    """Return the invocation's key, the same for all its deliveries, in at most 200 characters of clean text.

    A `webhook_id` equal to the webhook's own id is skipped: it would be the same for all its e-mails.
    """
    source_id = email.source_id if email else None
    if source_id and source_id != headers.get(WEBHOOK_ID, "").strip():
        key = source_id
    elif not (key := headers.get(INVOCATION_ID, "").strip()):
        return _hash(headers.get(ACCOUNT_ID, ""), body)
    return _hash(key) if len(key) > 200 or not is_clean(key) else key


def _is_whole_event(data: dict[str, object]) -> bool:
    """Say whether this is a complete event, and not a trigger's body broken by a sender's quotation marks."""
    event_id = text_of(data.get("id")) or ""
    return (
        isinstance(data.get("detail"), dict)
        and isinstance(data.get("event"), dict)
        and all(text_of(data.get(key)) for key in ("account_id", "id", "subject"))
        and not event_id.isdigit()  # the id of a ticket
    )


def _ticket_id(data: dict[str, object]) -> str | None:
    ticket_id = _pick(data, "ticket_id", "ticketId", "ticketID")
    if ticket_id is None:
        spelt = (text_of(value) for key, value in data.items() if name_of(key).is_ticket_id)
        ticket_id = next(filter(None, spelt), None)
    return ticket_id and _NUMBER_SIGN.sub("", ticket_id)


def _flatten_trigger(data: dict[str, object], ticket_id: str | None) -> dict[str, object]:
    ticket = _object(data, "ticket")
    filled = {key: value for key, value in data.items() if not is_blank(value)}
    if ticket_id is None:
        other = _ticket_id(ticket) or _pick(ticket, "id") or _ticket_within(data) or _pick(data, "id")
        ticket_id = other and _NUMBER_SIGN.sub("", other)
    # An `account_id` in a template is the sender's, such as a customer's number: Zendesk's is in a header.
    return ticket | filled | {"ticket_id": ticket_id, "account_id": None}


def _ticket_within(data: dict[str, object]) -> str | None:
    """Return the ticket that a member names: `"ticket": 35436`, `"Ticket": {"Id": 35436}`, `"data": {"ticket_id": 35436}`.

    The `id` beside it is that of something else, such as the sender's. But one that is a number is the ticket, if the
    member may be about another one, as in `"problem": {"ticket_id": 9}`.
    """
    has_number = (_pick(data, "id") or "").isdecimal()
    for key, value in data.items():
        for each in _tickets_of(name_of(key), value, is_sure=not has_number):
            number = _NUMBER_SIGN.sub("", each or "")
            if number.isdecimal():  # neither a subject nor an address
                return number
    return None


def _tickets_of(name: Name, value: object, *, is_sure: bool) -> list[str | None]:
    """List what a member may name as the ticket; `is_sure` if any member with a ticket is about this one."""
    if not isinstance(value, dict):
        return [text_of(value)] if name.word == "ticket" else []
    if name.word == "ticket":
        ids = (text_of(each) for key, each in value.items() if name_of(key).word == "id")
        return [_ticket_id(value), *ids]
    is_about_it = (is_sure and not name.is_aside) or name.word in _WRAPPERS
    return [_ticket_id(value)] if is_about_it else []


def _flatten_event(data: dict[str, object]) -> dict[str, object]:
    """Rename an event's fields to the keys of a trigger.

    https://developer.zendesk.com/api-reference/webhooks/event-types/ticket-events
    """
    detail, comment = _object(data, "detail"), _object(_object(data, "event"), "comment")
    about = re.fullmatch(r"zen:ticket:(.+)", text_of(data.get("subject")) or "", re.DOTALL)
    return {
        "ticket_id": _pick(detail, "id") or (about and about[1]),
        "subject": detail.get("subject"),
        "from_email": data.get("from_email"),
        "from_name": _object(comment, "author").get("name") or data.get("from_name"),
        "received_at": data.get("time"),
        "webhook_id": data.get("id"),
        "account_id": data.get("account_id"),
    }


def _read_email(fields: dict[str, object], found: FoundFiles) -> Email:
    ticket_id = _pick(fields, "ticket_id")
    if ticket_id is None:
        raise Unreadable("no_ticket", "The body names no ticket.")
    if len(ticket_id) > 200:
        raise Unreadable("wrong_shape", "The ticket's id is longer than 200 characters.")
    # A template may have the ticket's id in the place of the comment's.
    comment_id = found.comment_id if found.comment_id != ticket_id else None
    source_id = fields.get("webhook_id")
    if isinstance(source_id, str) and not is_clean(source_id):
        source_id = _hash(source_id)  # cleaning could make two ids equal
    return Email(
        ticket_id=ticket_id,
        subject=_pick(fields, "subject", "title"),
        from_email=_pick(fields, "from_email"),
        from_name=_pick(fields, "from_name"),
        sent_at=_read_date(_pick(fields, "received_at") or ""),
        source_id=text_of(source_id),
        account_id=_pick(fields, "account_id"),
        comment_id=comment_id or ("" if found.listed is None or found.may_be_more else None),
        attachments=found.attachments,
        attachment_urls=found.listed,
    )


def _read_date(text: str) -> datetime | None:
    if _RFC_2822.fullmatch(text):
        with suppress(ValueError, OverflowError):  # 31 February, or an offset outside the calendar
            date = parsedate_to_datetime(text)
            return date.replace(tzinfo=date.tzinfo or UTC).astimezone(UTC)
    return read_time(text)


def _object(fields: dict[str, object], name: str) -> dict[str, object]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _pick(fields: dict[str, object], *names: str) -> str | None:
    for name in names:
        if (value := fields.get(name)) is not None and (text := text_of(value)):
            return text
    return None


def _hash(text: str, body: bytes = b"") -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass") + b"\n" + body).hexdigest()
