"""Read a webhook's body: what an admin typed into a trigger, or one of Zendesk's own events."""

import codecs
import hashlib
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from service.errors import HoldfastError
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID, read_time, to_bytes

_EVENT = "zen:event-type:"
_FILE_LINKED = "zen:event-type:ticket.attachment_linked_to_comment"
_USED_EVENTS = {"zen:event-type:ticket.created", "zen:event-type:ticket.comment_added", _FILE_LINKED}

_BOMS = (  # in this order: the mark of utf-32-le begins with that of utf-16-le
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# A byte that is not UTF-8, as the lone surrogate that it is decoded to, read as windows-1252.
_STRAY_BYTES = {
    0xDC00 + byte: chr(byte) if byte in b"\x81\x8d\x8f\x90\x9d" else bytes([byte]).decode("windows-1252")
    for byte in range(0x80, 0x100)
}
_UNCLEAN = re.compile("[\x00\ud800-\udfff]")  # what a text column of Postgres refuses
_RFC_2822 = re.compile(r"(?:[A-Za-z]{3},? +)?[0-9]{1,2} +[A-Za-z]{3} +[0-9]{4} +[0-9]{2}:[0-9]{2}\b.{0,40}")


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
    sent_at: datetime | None  # aware; the e-mail's own date
    source_id: str | None  # a trigger's `webhook_id`, an event's `id`
    account_id: str | None
    comment_id: str | None
    attachments: tuple[Attachment, ...]
    attachment_urls: list[object]


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event of a type that we have no use for: acknowledged and counted."""

    event_type: str


class Unreadable(HoldfastError):
    """The body cannot be read; codes are `not_json`, `wrong_shape` and `no_ticket`."""


def parse(body: bytes) -> Email | Ignored:
    """Read the body; raises Unreadable and nothing else, whatever the bytes."""
    data = _read_json(_decode(body))
    if not isinstance(data, dict):
        raise Unreadable("wrong_shape", f"The body is a JSON {type(data).__name__}, not an object.")
    kind = data.get("type")
    # No event has a `ticket_id`; a trigger that quotes an event's type is a trigger.
    if not isinstance(kind, str) or not kind.startswith(_EVENT) or _text(data.get("ticket_id")):
        return _read_trigger(data)
    return _read_event(data, kind) if kind in _USED_EVENTS else Ignored(_clean(kind))


def idempotency_key(email: Email | None, headers: Mapping[str, str], body: bytes) -> str:
    """Name the invocation, the same for each repetition; at most 200 characters of clean text.

    A `webhook_id` that is the webhook's own is no use: every e-mail would be taken for the first.
    """
    source_id = email.source_id if email else None
    if source_id and source_id != headers.get(WEBHOOK_ID, "").strip():
        return _as_key(source_id)
    if invocation_id := headers.get(INVOCATION_ID, "").strip():
        return _as_key(invocation_id)
    return _hash(to_bytes(headers.get(ACCOUNT_ID, "")) + b"\n" + body)


def _decode(body: bytes) -> str:
    for bom, encoding in _BOMS:
        if body.startswith(bom):
            return body.decode(encoding, "replace")
    return body.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").translate(_STRAY_BYTES)


def _read_json(text: str) -> object:
    try:
        data = json.loads(text, strict=False, parse_float=_read_float, parse_constant=_refuse_constant)
        _refuse_depth(data)
    except RecursionError:
        raise Unreadable("wrong_shape", "The JSON is nested too deep.") from None
    except ValueError as exc:
        raise Unreadable("not_json", f"Not JSON: {exc}") from exc
    return data


def _read_float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits  # 1e400: nothing can write an infinity as JSON


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _refuse_depth(data: object) -> None:
    """Hold every Python to one limit, far below where its JSON writer or ours would give up."""
    level = [data]
    for _ in range(100):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return
    raise RecursionError


def _read_trigger(data: dict[str, object]) -> Email:
    ticket = _object(data, "ticket")
    fields = ticket | {key: value for key, value in data.items() if not _is_empty(value)}
    sent = fields.get("attachments")
    if isinstance(sent, str):  # a template may quote its list, or hold one bare address
        sent = [sent] if re.fullmatch(r"\s*https?://\S+\s*", sent) else _read_quoted(sent)
    if not isinstance(sent, dict | list | None):
        raise Unreadable("wrong_shape", "`attachments` is neither a list nor an object nor an address.")
    return Email(
        ticket_id=_ticket_id(
            _pick(fields, "ticket_id", "ticketId", "ticketID") or _pick(ticket, "id") or _pick(data, "id")
        ),
        subject=_pick(fields, "subject", "title"),
        from_email=_pick(fields, "from_email"),
        from_name=_pick(fields, "from_name"),
        sent_at=_read_date(fields.get("received_at")),
        source_id=_source_id(fields.get("webhook_id")),
        account_id=_pick(fields, "account_id"),
        comment_id=_pick(fields, "comment_id"),
        attachments=...
    )
