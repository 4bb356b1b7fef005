"""Read a comment of a ticket as a message: who wrote what to whom, with which files; and the subjects of tickets.

https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/
https://developer.zendesk.com/documentation/ticketing/reference-guides/via-object-reference/
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from service.errors import Transient
from service.outbound.addresses import attachment_key
from service.zendesk.addresses import addresses_in, may_contain_files, unescaped
from service.zendesk.body import Unreadable, clean, read_json, text_of
from service.zendesk.files import MOST_ATTACHMENTS, AnnouncedFile, bare_file, read_attachment
from service.zendesk.signature import read_time

TEXT_BYTES = 65_536  # the part of a text that is kept in Postgres
MOST_TICKETS = 100  # of one call of `show_many`
MOST_RECIPIENTS = 1_000
MOST_CHARACTERS = 1_000  # of a name, an address, a subject, a message's id

_MOST_ITEMS = 10_000  # of a list of people, equal ones among them
_MOST_HTML = 1_000_000  # characters that are searched for images; Zendesk cuts bodies at 64 kB
_MOST_ID = 100  # characters of an id or of a channel
_EMAIL_CHANNELS = {"email", "mail", "4"}
# Zendesk's notes about a comment that came by e-mail, whatever its channel: a follow-up's channel is "web".
_EMAIL_NOTES = ("message_id", "raw_email_identifier", "email_id")
_BODIES = ("plain_body", "body", "html_body")
_AGENTS = {"agent", "admin"}
_VERDICTS = {"not_scanned", "failed_to_scan", "malware_found", "malware_not_found"}
_REDACTED = "▇"  # Zendesk's replacement of a redacted character
_REDACTED_FILE = "redacted.txt"

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Person:
    """A sender or a recipient; both are None if Zendesk does not tell."""

    name: str | None
    address: str | None


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a comment.

    `malware` is Zendesk's verdict, or "overridden" if an administrator allows the download nevertheless; None if
    there is no known verdict. `is_gone` means that Zendesk has deleted or redacted it: its address gives nothing.
    `is_linked`: it is not in the list of Zendesk, and only the text that a sender wrote names it.
    """

    url: str
    file_name: str | None
    content_type: str | None
    size: int | None
    zendesk_id: str | None = None
    inline: bool = False
    malware: str | None = None
    is_gone: bool = False
    is_linked: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """A message's whole plain text, "" without one, and its HTML."""

    text: str
    html: str | None


@dataclass(frozen=True, slots=True)
class CommentMessage:
    """A comment as a message, in texts that Postgres accepts."""

    comment_id: str
    audit_id: str | None
    created_at: datetime | None  # aware
    channel: str | None  # as Zendesk names it: email, web, api
    is_email: bool
    is_by_agent: bool
    direction: str  # inbound, or outbound for a comment by an agent
    public: bool | None
    sender: Person
    to: tuple[Person, ...]
    cc: tuple[Person, ...]
    message_id: str | None  # as in the e-mail's header
    text: str  # the whole plain text
    html: str | None
    files: tuple[ListedFile, ...]  # the listed ones, and those that stand only in the HTML
    record: bytes  # the comment's JSON as Zendesk gave it, in UTF-8
    is_redacted: bool
    foreign: frozenset[str] = frozenset()  # the keys of files of other accounts that only its text names


@dataclass(frozen=True, slots=True)
class TicketFacts:
    """A ticket's subject, and the address that its first e-mail was sent to."""

    subject: str | None
    recipient: str | None


@dataclass(frozen=True, slots=True)
class TicketTimes:
    """When a ticket was made, and when anything of it last changed; both are aware."""

    created_at: datetime
    updated_at: datetime


def read_page(page: Fields) -> list[CommentMessage]:
    """Read a page of a ticket's comments; raises Transient if it does not match the API's documentation."""
    found = page.get("comments")
    if not isinstance(found, list):
        raise Transient("bad_response", "The comments API did not answer with comments.")
    users = {
        user_id: user
        for user in _items(page.get("users"))
        if isinstance(user, dict) and (user_id := _short(user.get("id"), _MOST_ID))
    }
    return [_read(comment, users) for comment in found if isinstance(comment, dict)]


def read_tickets(page: Fields) -> dict[str, TicketFacts]:
    """Return the facts of the tickets of `show_many`, by id; raises Transient for another answer."""
    found = page.get("tickets")
    if not isinstance(found, list):
        raise Transient("bad_response", "The tickets API did not answer with tickets.")
    return {
        ticket_id: TicketFacts(
            _short(ticket.get("subject")) or _short(ticket.get("raw_subject")),
            _short(ticket.get("recipient")),
        )
        for ticket in found
        if isinstance(ticket, dict) and (ticket_id := _short(ticket.get("id"), _MOST_ID))
    }


def read_ticket_times(page: Fields) -> dict[str, TicketTimes]:
    """Return when the tickets of `show_many` were made and changed, by id; tickets without both times are left out."""
    found = page.get("tickets")
    if not isinstance(found, list):
        raise Transient("bad_response", "The tickets API did not answer with tickets.")
    times = {}
    for ticket in filter(None, map(_object, found)):
        ticket_id = _short(ticket.get("id"), _MOST_ID)
        made, changed = (read_time(_short(ticket.get(name)) or "") for name in ("created_at", "updated_at"))
        if ticket_id and made and changed:
            times[ticket_id] = TicketTimes(made, changed)
    return times


def read_record(record: bytes) -> Body:
    """Return the text and the HTML of a kept `record`; raises Unreadable for other bytes."""
    comment = read_json(record)
    if not isinstance(comment, dict):
        raise Unreadable("wrong_shape", "The record is JSON, but not an object.")
    return _body_of(comment)


def cut_text(text: str) -> str:
    """Return the beginning of a text, in at most TEXT_BYTES bytes of UTF-8 and in whole characters."""
    beginning = clean(text[:TEXT_BYTES])
    return beginning.encode()[:TEXT_BYTES].decode(errors="ignore")


def _read(comment: Fields, users: Mapping[str, Fields]) -> CommentMessage:
    comment_id = text_of(comment.get("id"))
    if comment_id is None or len(comment_id) > _MOST_ID:  # a cut id could be another comment's
        raise Transient("bad_response", "The comments API answered with a comment that has no id.")
    author = users.get(_short(comment.get("author_id"), _MOST_ID) or "", {})
    by_agent = (_short(author.get("role")) or "").lower() in _AGENTS
    source = _object(_object(comment.get("via")).get("source"))
    sender, cc = _sender(source, author), _copied(source, users)
    system = _system(comment)
    body = _body_of(comment)
    return CommentMessage(
        comment_id=comment_id,
        audit_id=_short(comment.get("audit_id"), _MOST_ID),
        created_at=read_time(_short(comment.get("created_at")) or ""),
        channel=_channel(comment),
        is_email=_is_email(comment),
        is_by_agent=by_agent,
        direction="outbound" if by_agent else "inbound",
        public=public if isinstance(public := comment.get("public"), bool) else None,
        sender=sender,
        to=_addressed(source, sender, cc),
        cc=cc,
        message_id=_short(system.get("message_id")),
        text=body.text,
        html=body.html,
        files=_files(comment),
        record=_record(comment),
        is_redacted=_is_redacted(comment),
    )


def _is_email(comment: Fields) -> bool:
    """Say whether a comment came by e-mail: it has notes of an e-mail, or an e-mail's channel."""
    if (_short(comment.get("type")) or "").lower().endswith("voicecomment"):
        return False
    system = _system(comment)
    return (
        any(system.get(note) for note in _EMAIL_NOTES) or (_channel(comment) or "").lower() in _EMAIL_CHANNELS
    )


def _is_redacted(comment: Fields) -> bool:
    is_marked = any(isinstance(body := comment.get(key), str) and _REDACTED in body for key in _BODIES)
    return is_marked or _system(comment).get("eml_redacted") is True


def _channel(comment: Fields) -> str | None:
    via = comment.get("via")  # some answers give the channel alone
    return _short(via.get("channel") if isinstance(via, dict) else via, _MOST_ID)


def _system(comment: Fields) -> Fields:
    return _object(_object(comment.get("metadata")).get("system"))


def _body_of(comment: Fields) -> Body:
    texts = [clean(text) for key in ("plain_body", "body") if isinstance(text := comment.get(key), str)]
    html = comment.get("html_body")
    return Body(
        next((text for text in texts if text.strip()), ""),
        clean(html) if isinstance(html, str) and html.strip() else None,
    )


def _record(comment: Fields) -> bytes:
    # A lone surrogate has no UTF-8. Python's escape of it is JSON's, too.
    return json.dumps(comment, ensure_ascii=False).encode(errors="backslashreplace")


def _sender(source: Fields, author: Fields) -> Person:
    """Return the sender that the e-mail named, or else the comment's author."""
    named, user = _described(_object(source.get("from"))), _user(author)
    if named.address is None:
        return user if user.address or named.name is None else named
    is_author = user.address is not None and _key(user.address) == _key(named.address)
    return Person(named.name or (user.name if is_author else None), named.address)


def _copied(source: Fields, users: Mapping[str, Fields]) -> tuple[Person, ...]:
    """Return the people in copy: Zendesk gives ids of users, or addresses."""
    people = (_person(item, users) for item in _items(_object(source.get("to")).get("email_ccs")))
    return _distinct(people, set())


def _addressed(source: Fields, sender: Person, cc: Iterable[Person]) -> tuple[Person, ...]:
    """Return the people the message was sent to.

    `original_recipients` are the addresses in its To and Cc, at times with the sender's own.
    """
    to = _object(source.get("to"))
    first = _described(to)
    others = {_key(person.address) for person in (first, sender, *cc) if person.address}
    originals = (
        _person(item, {})
        for part in (_object(source.get("from")), to)
        for item in _items(part.get("original_recipients"))
    )
    return (*_distinct([first], set()), *_distinct(originals, others))[:MOST_RECIPIENTS]


def _distinct(people: Iterable[Person], known: set[str]) -> tuple[Person, ...]:
    """Return each person once, without those of the known addresses, up to the limit."""
    found: list[Person] = []
    for person in people:
        key = _key(person.address or person.name or "")
        if key and key not in known:
            known.add(key)
            found.append(person)
            if len(found) == MOST_RECIPIENTS:
                break
    return tuple(found)


def _person(item: object, users: Mapping[str, Fields]) -> Person:
    if isinstance(item, dict):
        return _described(item)
    text = _short(item)
    if text is None:
        return Person(None, None)
    if text in users:
        return _user(users[text])
    if "@" in text:
        return Person(None, text)
    return Person(None if text.isdigit() else text, None)  # a deleted user's name, or an unknown id


def _described(fields: Fields) -> Person:
    return Person(_short(fields.get("name")), _short(fields.get("address")))


def _user(user: Fields) -> Person:
    return Person(_short(user.get("name")), _short(user.get("email")))


def _key(address: str) -> str:
    return address.strip().casefold()


def _files(comment: Fields) -> tuple[ListedFile, ...]:
    listed = comment.get("attachments")
    if not isinstance(listed, list):
        raise Transient("bad_response", "The comments API did not answer with attachments.")
    files = [_listed_file(item) for item in listed]
    known = {attachment_key(file.url) for file in files}
    known |= {attachment_key(url) for item in listed for url in _thumbnails(item)}
    shown = (file for file in _in_text(comment.get("html_body")) if attachment_key(file.url) not in known)
    return (
        *files,
        *(
            ListedFile(file.url, file.file_name, file.content_type, file.size, inline=True, is_linked=True)
            for file in shown
        ),
    )


def _listed_file(item: object) -> ListedFile:
    file, fields = read_attachment(item), _object(item)
    verdict = (_short(fields.get("malware_scan_result")) or "").lower()
    is_redacted = file.size == 0 and file.file_name == _REDACTED_FILE
    return ListedFile(
        url=file.url,
        file_name=file.file_name,
        content_type=file.content_type,
        size=file.size,
        zendesk_id=_short(fields.get("id"), _MOST_ID),
        inline=fields.get("inline") is True,
        malware="overridden"
        if fields.get("malware_access_override") is True
        else (verdict if verdict in _VERDICTS else None),
        is_gone=is_redacted or fields.get("deleted") is True,
    )


def _thumbnails(item: object) -> Iterator[str]:
    for thumbnail in _items(_object(item).get("thumbnails")):
        if url := read_attachment(thumbnail).url:
            yield url


def _in_text(html: object) -> list[AnnouncedFile]:
    """Find the attachments in a text's links and images, in any markup."""
    if not isinstance(html, str) or not may_contain_files(html):
        return []
    found, _ = addresses_in(unescaped(html[:_MOST_HTML]), MOST_ATTACHMENTS, is_list=False)
    return [bare_file(address, address.file_name) for address in found if address.is_attachment]


def _short(value: object, most: int = MOST_CHARACTERS) -> str | None:
    """Return a text or a number as a text of at most `most` characters; None for an empty or any other value."""
    text = text_of(value[: most + 100] if isinstance(value, str) else value)
    return text[:most].rstrip() if text else None


def _items(value: object) -> list[object]:
    return value[:_MOST_ITEMS] if isinstance(value, list) else []


def _object(value: object) -> Fields:
    return value if isinstance(value, dict) else {}
