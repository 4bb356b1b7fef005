"""Read what Zendesk lists of itself: exports of changes, lists of tickets, deleted tickets and suspended e-mails.

https://developer.zendesk.com/api-reference/ticketing/ticket-management/incremental_exports/
https://developer.zendesk.com/api-reference/ticketing/tickets/suspended_tickets/
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from service.errors import Transient
from service.zendesk.body import text_of
from service.zendesk.files import AnnouncedFile, read_attachment
from service.zendesk.messages import MOST_CHARACTERS, cut_text
from service.zendesk.signature import read_time

State = Literal["deleted", "permanently_deleted", "redacted", "private", "restored", "public"]

MOST_FILES = 100  # of one suspended e-mail
MOST_CURSOR = 2_000  # characters

_LIST_PAGE = 100  # tickets of a page that we ask for
_MOST_EVENTS = 10_000  # of a page; Zendesk's have at most 1,000
_MOST_CHILDREN = 1_000  # of one audit
_ID = re.compile("[0-9]{1,30}")
_IDENTIFIER = re.compile(r"([0-9]{1,30})/")
# Zendesk's notes about an e-mail; a comment of another channel has none of them.
_NOTES = ("message_id", "raw_email_identifier", "email_id")
_EMAIL_CHANNELS = {"email", "mail", "4"}
_EMAIL_WORDS = {"email", "mail", "e-mail"}
# The channels of comments that are surely no e-mails; any other word may be one that we do not know.
_OTHER_CHANNELS = {
    *("web", "api", "chat", "sms", "voice", "phone", "mobile", "mobile_sdk", "rule", "native_messaging"),
    *("web_widget", "facebook", "twitter", "any_channel", "help_center", "sample_ticket", "whatsapp"),
}

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ListedComment:
    """A comment by e-mail that Zendesk lists."""

    ticket_id: str
    comment_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """What Zendesk did with a comment, or with a whole ticket where `comment_id` is None."""

    ticket_id: str
    comment_id: str | None
    state: State


@dataclass(slots=True)
class EventsPage:
    """A page of the export of ticket events.

    `unsure` are the tickets of comments whose channel the export does not tell, with the time of the earliest one; None
    if it tells no time.
    `end_time` is where the next page begins, in seconds since 1970.
    """

    found: list[ListedComment] = field(default_factory=list)
    unsure: dict[str, datetime | None] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    account_id: str | None = None
    count: int = 0
    end_time: int | None = None
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class TicketsPage:
    """A page of tickets, those changed last first; a ticket without a readable time has None."""

    tickets: list[tuple[str, datetime | None]]
    cursor: str | None  # of the next page


@dataclass(frozen=True, slots=True)
class Suspended:
    """An e-mail that Zendesk holds back, in texts that Postgres accepts."""

    suspended_id: str
    ticket_id: str | None
    subject: str | None
    from_address: str | None
    from_name: str | None
    recipient: str | None
    cause: str | None
    message_id: str | None
    text: str
    created_at: datetime | None
    files: tuple[AnnouncedFile, ...]
    record: bytes  # its JSON as Zendesk gave it, in UTF-8


def read_events(page: Fields, per_page: int) -> EventsPage:
    """Read a page of `incremental/ticket_events`; raises Transient for another answer."""
    events = page.get("ticket_events")
    if not isinstance(events, list) or len(events) > _MOST_EVENTS:
        raise _not("events")
    read = EventsPage(count=len(events), end_time=_seconds(page.get("end_time")))
    for event in events:
        if isinstance(event, dict):
            _read_event(event, read)
    stream = page.get("end_of_stream")
    read.is_end = stream if isinstance(stream, bool) else len(events) < per_page
    return read


def read_changed_tickets(page: Fields) -> TicketsPage:
    """Read a page of `tickets?sort=-updated_at`; raises Transient for another answer."""
    found = page.get("tickets")
    if not isinstance(found, list) or len(found) > _MOST_EVENTS:
        raise _not("tickets")
    tickets = [
        (ticket_id, _time(each.get("updated_at")))
        for each in found
        if isinstance(each, dict) and (ticket_id := id_of(each.get("id")))
    ]
    cursor = _cursor(page)
    # Without a cursor, an answer has to say that it is the last one: else all that follows would be lost.
    is_told = _object(page.get("meta")).get("has_more") is False
    if cursor is None and not is_told and (page.get("next_page") or len(found) >= _LIST_PAGE):
        raise _not("pages of tickets")
    return TicketsPage(tickets, cursor)


def read_deleted_tickets(page: Fields) -> list[str]:
    """Return the ids of a page of `deleted_tickets`; raises Transient for another answer."""
    found = page.get("deleted_tickets")
    if not isinstance(found, list) or len(found) > _MOST_EVENTS:
        raise _not("deleted tickets")
    return [ticket_id for each in found if isinstance(each, dict) and (ticket_id := id_of(each.get("id")))]


def read_suspended(page: Fields) -> list[Suspended]:
    """Read a page of `suspended_tickets`; raises Transient for another answer."""
    found = page.get("suspended_tickets")
    if not isinstance(found, list) or len(found) > _MOST_EVENTS:
        raise _not("suspended tickets")
    return [
        _suspended(suspended_id, each)
        for each in found
        if isinstance(each, dict) and (suspended_id := id_of(each.get("id")))
    ]


def next_page(page: Fields, number: int) -> dict[str, str] | None:
    """Return the parameters of the page after page `number`, by cursor or by number; None after the last one."""
    if (cursor := _cursor(page)) is not None:
        return {"page[size]": "100", "page[after]": cursor}
    if isinstance(page.get("next_page"), str):
        return {"per_page": "100", "page": str(number + 1)}
    return None


def has_more(page: Fields) -> bool:
    """Say whether there is a page after this one, whether or not it says which; the last one may name an empty page."""
    said = _object(page.get("meta")).get("has_more")
    return said if isinstance(said, bool) else bool(_object(page.get("links")).get("next"))


def account_of_comments(page: Fields) -> str | None:
    """Return the number of the account that a page of comments names; None if it names none."""
    comments = page.get("comments")
    for comment in comments if isinstance(comments, list) else ():
        if isinstance(comment, dict) and (
            account := _account(_object(comment.get("metadata")).get("system"))
        ):
            return account
    return None


def id_of(value: object) -> str | None:
    """Return a numeric id as text; None for any other value."""
    text = text_of(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    return text if text and _ID.fullmatch(text) else None


def _read_event(event: Fields, read: EventsPage) -> None:
    """Add what an audit tells to the page."""
    ticket_id = id_of(event.get("ticket_id"))
    if ticket_id is None:
        return
    children = event.get("child_events")
    if not isinstance(children, list) or len(children) > _MOST_CHILDREN:
        read.unsure[ticket_id] = None
    known = children[:_MOST_CHILDREN] if isinstance(children, list) else []
    listed = [each for each in known if isinstance(each, dict)]
    systems = [_object(event.get("system")), _object(_object(event.get("metadata")).get("system"))]
    for system in systems:
        read.account_id = read.account_id or _account(system)
    read.changes += (change for child in listed for change in _changes(ticket_id, child))
    comments = [child for child in listed if _kind(child) == "comment"]
    for child in comments:
        # The notes of an audit are those of its only comment.
        notes = systems if len(comments) == 1 else []
        _read_comment(ticket_id, event, child, notes, read)


def _read_comment(
    ticket_id: str, event: Fields, child: Fields, notes: list[Fields], read: EventsPage
) -> None:
    own = _object(_object(child.get("metadata")).get("system"))
    read.account_id = read.account_id or _account(own)
    is_email = _is_email(event, child, [own, *notes])
    if is_email is False:
        return
    comment_id = id_of(child.get("id"))
    made_at = (
        _time(child.get("created_at")) or _time(event.get("created_at")) or _time(event.get("timestamp"))
    )
    if is_email and comment_id and made_at:
        read.found.append(ListedComment(ticket_id, comment_id, made_at))
        return
    earliest = read.unsure.get(ticket_id, made_at)
    read.unsure[ticket_id] = min(made_at, earliest) if made_at and earliest else None


def _is_email(event: Fields, child: Fields, systems: list[Fields]) -> bool | None:
    """Say whether a comment came by e-mail; None if the export does not tell."""
    if any(isinstance(system.get(note), str) and system[note] for system in systems for note in _NOTES):
        return True
    via, of_audit = child.get("via"), _word(event.get("via"))
    if isinstance(via, dict):
        channel = (text_of(via.get("channel")) or "").lower()
        if channel in _EMAIL_CHANNELS:
            return True
        is_follow_up = _object(via.get("source")).get("rel") is not None
        is_other = channel in _OTHER_CHANNELS and not is_follow_up and of_audit not in _EMAIL_WORDS
        return False if is_other else None
    # A text is shown to people, perhaps in another language.
    return True if (_word(via) or of_audit) in _EMAIL_WORDS else None


def _changes(ticket_id: str, child: Fields) -> Iterator[Change]:
    """Return the change of a comment or of the ticket that a child event tells."""
    kind, comment_id = _kind(child), id_of(child.get("comment_id"))
    if kind in {"commentredactionevent", "attachmentredactionevent"} and comment_id:
        yield Change(ticket_id, comment_id, "redacted")
    elif kind == "commentprivacychange" and comment_id and isinstance(child.get("public"), bool):
        yield Change(ticket_id, comment_id, "public" if child["public"] else "private")
    elif kind == "change" and child.get("status") == "deleted":
        yield Change(ticket_id, None, "deleted")
    elif (
        kind == "change" and child.get("previous_value") == "deleted" and isinstance(child.get("status"), str)
    ):
        yield Change(ticket_id, None, "restored")


def _suspended(suspended_id: str, item: Fields) -> Suspended:
    author = _object(item.get("author"))
    content = item.get("content")
    files = item.get("attachments")
    return Suspended(
        suspended_id=suspended_id,
        ticket_id=id_of(item.get("ticket_id")),
        subject=_short(item.get("subject")),
        from_address=_short(author.get("email")),
        from_name=_short(author.get("name")),
        recipient=_short(item.get("recipient")),
        cause=_short(item.get("cause")),
        message_id=_short(item.get("message_id")),
        text=cut_text(content) if isinstance(content, str) else "",
        created_at=_time(item.get("created_at")),
        files=tuple(map(read_attachment, files[:MOST_FILES])) if isinstance(files, list) else (),
        record=json.dumps(item, ensure_ascii=False).encode(errors="backslashreplace"),
    )


def _kind(child: Fields) -> str:
    return (_word(child.get("event_type")) or _word(child.get("type"))).lower()


def _word(value: object) -> str:
    return value[:100].strip().lower() if isinstance(value, str) else ""


def _account(system: object) -> str | None:
    """Return the account that an e-mail's storage key begins with."""
    named = _object(system).get("raw_email_identifier")
    found = _IDENTIFIER.match(named) if isinstance(named, str) else None
    return found[1] if found else None


def _cursor(page: Fields) -> str | None:
    meta = _object(page.get("meta"))
    if meta.get("has_more") is not True:
        return None
    cursor = meta.get("after_cursor")
    if not isinstance(cursor, str) or not 0 < len(cursor) <= MOST_CURSOR or not cursor.isprintable():
        raise Transient("bad_response", "Zendesk's API says that there is a next page, and not which.")
    return cursor


def _seconds(value: object) -> int | None:
    """Return a time in seconds since 1970; None for none, or for one that no calendar has."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 253_402_300_800:
        return None
    return value


def _time(value: object) -> datetime | None:
    text = text_of(value[:100] if isinstance(value, str) else value)
    return read_time(text) if text else None


def _short(value: object) -> str | None:
    text = text_of(value[: MOST_CHARACTERS + 100] if isinstance(value, str) else value)
    return text[:MOST_CHARACTERS].rstrip() if text else None


def _object(value: object) -> Fields:
    return value if isinstance(value, dict) else {}


def _not(what: str) -> Transient:
    return Transient("bad_response", f"Zendesk's API did not answer with {what}.")
