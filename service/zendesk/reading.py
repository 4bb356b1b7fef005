"""Read a whole request, and tell what reading it again would change on a record."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from multidict import CIMultiDict

from service.outbound.addresses import MOST_ADDRESS, attachment_key
from service.zendesk import payloads
from service.zendesk.addresses import plain
from service.zendesk.body import Unreadable, read_json
from service.zendesk.payloads import AnnouncedFile, Email, Ignored
from service.zendesk.search import search

_UNCHANGED_ENCODINGS = {"", "identity"}
_BEGINNING = re.compile(r"(?=https?://)", re.IGNORECASE)
_END = re.compile(r"[\s<>\"|]")
_ENDS = " \t\r\n;|,<>\"')]}"


class RecordedFile(Protocol):
    """A file that is on record."""

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
    """What reading a body again makes of a record.

    `fields` are the columns whose values differ, and `corrected` the files whose address was read wrongly, by
    position. `added` are files that were overlooked, and `withdrawn` the positions of items that are no files.
    """

    fields: Mapping[str, object]
    corrected: Mapping[int, AnnouncedFile]
    added: Sequence[AnnouncedFile]
    withdrawn: Sequence[int]

    def __bool__(self) -> bool:
        return bool(self.fields or self.corrected or self.added or self.withdrawn)


@dataclass(frozen=True, slots=True)
class AnnouncedList:
    """The files of a list that another system recorded, as far as they are not on record yet.

    `is_whole` is False where the list does not tell all files: then they have to be looked up in Zendesk's API.
    """

    missing: Sequence[AnnouncedFile]
    is_whole: bool
    fingerprint: bytes


def headers_of(pairs: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """Make headers of the pairs that are on record."""
    return CIMultiDict((name, value) for name, value in pairs)


def read(headers: Mapping[str, str], body: bytes) -> Email | Ignored:
    """Read the body as its headers say; raises Unreadable, with the code `compressed` where that is the reason."""
    try:
        return payloads.parse(body, media_type(headers))
    except Unreadable as exc:
        if _is_compressed(headers):
            encoding = headers.get("Content-Encoding", "")[:100]
            raise Unreadable("compressed", f"The body is encoded as {encoding!r}.") from exc
        raise


def media_type(headers: Mapping[str, str]) -> str:
    """Give the media type in small letters, without parameters; "" where there is none."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def columns_of(email: Email) -> dict[str, object]:
    """Give the columns of an e-mail that come out of its body, by name; `account_id` may be None."""
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
    """Read the text of `attachment_urls` of another system as a body's list; raises Unreadable.

    `files` are on record already. An address is compared by what it leads to, whatever its parameters are.
    """
    try:
        value = read_json(text)
    except Unreadable:  # a text column holds anything
        value = text
    found = search({"attachments": value})
    known = {attachment_key(file.source_url) for file in files if file.source_url}
    nameless = sum(not file.source_url for file in files)
    addressed = [file for file in found.attachments if file.url and attachment_key(file.url) not in known]
    others = [file for file in found.attachments if not file.url][nameless:]
    return AnnouncedList(
        [*addressed, *others], found.told is not None, hashlib.sha256(text.encode()).digest()
    )


def fingerprint(email: Email) -> bytes:
    """Hash what the parser made of a body: the same as long as it makes the same of it."""
    files = [[file.url, file.file_name, file.content_type, file.size] for file in email.attachments]
    made = json.dumps([list(columns_of(email).values()), files], default=str)
    return hashlib.sha256(made.encode()).digest()


def compare(kept: Mapping[str, object], files: Sequence[RecordedFile], email: Email) -> Changes:
    """Tell what a record lacks of what its body says; `kept` has the columns and the fingerprint of the last reading.

    A file that was stored once stays as it is, whatever the body says.
    """
    if kept["reading_hash"] == fingerprint(email):
        return Changes({}, {}, [], [])
    said = columns_of(email)
    if said["account_id"] is None:  # then it came from a header
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
        meant = _meant_by(file, email.attachments) if file.source_url == "" else _written_in(file.source_url)
        found = next((url for url in meant if url in missing), None)
        if found is not None:
            corrected[file.position] = missing.pop(found)
        elif not file.source_url or not announced.isdisjoint(meant):
            withdrawn.append(file.position)
    return Changes(fields, corrected, [*missing.values(), *_without_address(files, email)], withdrawn)


def _is_compressed(headers: Mapping[str, str]) -> bool:
    named = {name.strip().lower() for name in headers.get("Content-Encoding", "").split(",")}
    return bool(named - _UNCHANGED_ENCODINGS)


def _meant_by(nameless: RecordedFile, announced: Sequence[AnnouncedFile]) -> list[str]:
    """List the addresses that an item without one may have meant: of files with its name."""
    return [
        file.url for file in announced if file.file_name is not None and file.file_name == nameless.file_name
    ]


def _written_in(text: str) -> list[str]:
    """List the addresses in one that was read wrongly: several were joined, or something is before or after it."""
    addresses = []
    for piece in _BEGINNING.split(plain(text[:MOST_ADDRESS])):
        for address in (piece.rstrip(_ENDS), _END.split(piece, maxsplit=1)[0].rstrip(_ENDS)):
            is_whole = _BEGINNING.match(address)
            addresses.append(address if is_whole else f"https://{address.lstrip('/')}")
    return addresses


def _without_address(files: Sequence[RecordedFile], email: Email) -> list[AnnouncedFile]:
    """List announced files without an address, of which none is on record."""
    missing = [file for file in email.attachments if not file.url]
    return missing if missing and not any(not file.source_url for file in files) else []
