"""Read a whole request, and compute the changes that a reparse makes to a saved e-mail."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from multidict import CIMultiDict

from service.outbound.addresses import MOST_ADDRESS, attachment_key
from service.zendesk import payloads
from service.zendesk.addresses import unescaped
from service.zendesk.body import Unreadable, read_json
from service.zendesk.payloads import AnnouncedFile, Email, Ignored
from service.zendesk.search import search

_UNCHANGED_ENCODINGS = {"", "identity"}
_BEGINNING = re.compile(r"(?=https?://)", re.IGNORECASE)
_END = re.compile(r"[\s<>\"|]")
_ENDS = " \t\r\n;|,<>\"')]}"


# A lasting encoder: `json.dumps` makes one for each call. What was parsed holds no circles.
_ENCODER = json.JSONEncoder(default=str, check_circular=False)


class RecordedFile(Protocol):
    """A saved file of an e-mail."""

    @property
    def position(self) -> int: ...
    @property
    def source_url(self) -> str: ...
    @property
    def file_name(self) -> str | None: ...
    @property
    def status(self) -> str: ...
    @property
    def sha256(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of a reparse.

    `fields` are the columns with new values, and `corrected` the files whose address was read wrongly, by
    position. `added` are overlooked files, and `withdrawn` the positions of items that are no files.
    """

    fields: Mapping[str, object]
    corrected: Mapping[int, AnnouncedFile]
    added: Sequence[AnnouncedFile]
    withdrawn: Sequence[int]

    def __bool__(self) -> bool:
        return bool(self.fields or self.corrected or self.added or self.withdrawn)


@dataclass(frozen=True, slots=True)
class AnnouncedList:
    """The files of another system's list that are not saved yet.

    `is_whole` is False if the list does not name all files: then they have to be looked up in Zendesk's API.
    """

    missing: Sequence[AnnouncedFile]
    is_whole: bool
    fingerprint: bytes


def headers_of(pairs: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """Make headers of the saved pairs."""
    return CIMultiDict((name, value) for name, value in pairs)


def read(headers: Mapping[str, str], body: bytes) -> Email | Ignored:
    """Read the body by its headers; raises Unreadable, with the code `compressed` if that is the cause."""
    try:
        return payloads.parse(body, media_type(headers))
    except Unreadable as exc:
        if _is_compressed(headers):
            encoding = headers.get("Content-Encoding", "")[:100]
            raise Unreadable("compressed", f"The body is encoded as {encoding!r}.") from exc
        raise


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type in lower case, without parameters; "" if there is none."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def columns_of(email: Email) -> dict[str, object]:
    """Return the e-mail's columns that come from its body, by name; `account_id` may be None."""
    return {
        "zendesk_ticket_id": email.ticket_id,
        "from_email": email.from_email,
        "from_name": email.from_name,
        "subject": email.subject,
        "sent_at": email.sent_at,
        "comment_id": email.comment_id,
        "account_id": email.account_id,
        "attachment_urls": email.attachment_urls,
    }


def read_list(text: str, files: Sequence[RecordedFile]) -> AnnouncedList:
    """Read another system's text of `attachment_urls` as a body's list; raises Unreadable.

    `files` are saved already. Two addresses with different parameters are equal if they name the same
    attachment.
    """
    try:
        value = read_json(text)
    except Unreadable:  # a text column may hold any text
        value = text
    found = search({"attachments": value})
    known = {attachment_key(file.source_url) for file in files if file.source_url}
    nameless = sum(not file.source_url for file in files)
    addressed = [file for file in found.attachments if file.url and attachment_key(file.url) not in known]
    others = [file for file in found.attachments if not file.url][nameless:]
    return AnnouncedList(
        [*addressed, *others], found.listed is not None, hashlib.sha256(text.encode()).digest()
    )


def fingerprint(email: Email) -> bytes:
    """Hash the parser's result for a body; it changes if a new parser's result differs."""
    files = [[file.url, file.file_name, file.content_type, file.size] for file in email.attachments]
    made = _ENCODER.encode([list(columns_of(email).values()), files])
    return hashlib.sha256(made.encode()).digest()


def compare(kept: Mapping[str, object], files: Sequence[RecordedFile], email: Email) -> Changes:
    """Return the fields that a saved e-mail lacks of its body; `kept` has its columns and the fingerprint of the last reading.

    A stored file always stays unchanged.
    """
    if kept["reading_hash"] == fingerprint(email):
        return Changes({}, {}, [], [])
    said = columns_of(email)
    if said["account_id"] is None:  # the saved one came from a header
        del said["account_id"]
    fields = {name: value for name, value in said.items() if kept[name] != value}
    known = {file.source_url for file in files}
    missing = {file.url: file for file in email.attachments if file.url and file.url not in known}
    announced = {file.url for file in email.attachments}
    corrected: dict[int, AnnouncedFile] = {}
    withdrawn = []
    for file in files:
        if file.status == "stored" or file.sha256 is not None or file.source_url in announced:
            continue
        meant = (
            _addresses_of_name(file, email.attachments)
            if file.source_url == ""
            else _addresses_in(file.source_url)
        )
        found = next((url for url in meant if url in missing), None)
        if found is not None:
            corrected[file.position] = missing.pop(found)
        elif not file.source_url or not announced.isdisjoint(meant):
            withdrawn.append(file.position)
    return Changes(fields, corrected, [*missing.values(), *_without_address(files, email)], withdrawn)


def _is_compressed(headers: Mapping[str, str]) -> bool:
    named = {name.strip().lower() for name in headers.get("Content-Encoding", "").split(",")}
    return bool(named - _UNCHANGED_ENCODINGS)


def _addresses_of_name(nameless: RecordedFile, announced: Sequence[AnnouncedFile]) -> list[str]:
    """List the possible addresses of an item without one: those of files with its name."""
    return [
        file.url for file in announced if file.file_name is not None and file.file_name == nameless.file_name
    ]


def _addresses_in(text: str) -> list[str]:
    """List the addresses in a wrongly read one: several were joined, or it has text before or after it."""
    addresses = []
    for piece in _BEGINNING.split(unescaped(text[:MOST_ADDRESS])):
        for address in (piece.rstrip(_ENDS), _END.split(piece, maxsplit=1)[0].rstrip(_ENDS)):
            is_whole = _BEGINNING.match(address)
            addresses.append(address if is_whole else f"https://{address.lstrip('/')}")
    return addresses


def _without_address(files: Sequence[RecordedFile], email: Email) -> list[AnnouncedFile]:
    """List the announced files without an address, unless one is already saved."""
    missing = [file for file in email.attachments if not file.url]
    return missing if missing and not any(not file.source_url for file in files) else []
