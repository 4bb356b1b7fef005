"""Read one file of a body, in any of the forms of templates, events and the API."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.outbound.addresses import MOST_ADDRESS
from service.zendesk.addresses import CUT, Address, addresses_in, exact_address, unescaped
from service.zendesk.body import clean, text_of
from service.zendesk.names import name_of

# Recording many more would take longer than Zendesk waits.
MOST_ATTACHMENTS = 10_000

_MOST_NAME = 1_000  # characters
_MOST_TYPE = 200

# The names of a file's fields, as `names.Name.word`, in order of preference.
_URLS = (
    *("contenturl", "mappedcontenturl", "downloadurl", "downloadlink", "attachmenturl"),
    *("attachmentlink", "fileurl", "filelink", "url", "href", "link", "uri", "src"),
)
_FILE_NAMES = ("filename", "originalfilename", "attachmentname")
_TITLES = ("name", "title")
_TYPES = ("contenttype", "mimetype", "mime", "type")
_SIZES = ("size", "filesize", "bytes", "length")

ADDRESS_FIELDS = frozenset(_URLS)
FILE_FIELDS = frozenset((*_FILE_NAMES, *_TYPES[:3], *_SIZES))

_SIZE = re.compile("[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class AnnouncedFile:
    """A file in a webhook; `url` is "" if it has no address."""

    url: str
    file_name: str | None
    content_type: str | None
    size: int | None


def read_attachment(item: object) -> AnnouncedFile:
    """Read one item of a list of attachments; `url` is "" if it has no address."""
    if isinstance(item, dict):
        fields = fields_of(item)
        found = files_of(fields, is_announced=True)
        return found[0][1] if found else _describe(fields, "", (*_FILE_NAMES, *_TITLES))
    addresses = read_addresses(item) if isinstance(item, str) else []
    if not addresses:
        return AnnouncedFile("", _bounded(text_of(item), _MOST_NAME), None, None)
    return bare_file(addresses[0], None)


def fields_of(item: dict[str, object]) -> dict[str, object]:
    """Name the fields by the meaning of their keys; of two equal meanings, keep the one with a value."""
    fields: dict[str, object] = {}
    for key, value in item.items():
        word = name_of(key).word
        if not fields.get(word):
            fields[word] = value
    return fields


def files_of(fields: dict[str, object], *, is_announced: bool) -> list[tuple[Address, AnnouncedFile]]:
    """Return the files of an object: usually one, or more if it contains further addresses.

    In a list of files any address counts, elsewhere only an attachment's. If one file has several addresses,
    such as `content_url` and `mapped_content_url`, the first is taken.
    """
    names = (*_FILE_NAMES, *_TITLES) if is_announced else _FILE_NAMES
    found: list[tuple[Address, AnnouncedFile]] = []
    tokens: set[str] = set()
    first: object = None  # only this value's addresses on other hosts are files
    for value in map(fields.get, _URLS):
        for address in read_addresses(value) if isinstance(value, str) and value else ():
            if address.is_attachment:
                is_new = address.token is None or address.token not in tokens
            else:
                is_file = is_announced and bool(address.host) and not address.is_other
                is_new = is_file and (not found or first is value)
            if is_new:
                first = first if found else value
                url = recorded_address(address)
                found.append(
                    (
                        address,
                        bare_file(address, address.file_name) if found else _describe(fields, url, names),
                    )
                )
                tokens |= {address.token} if address.token else set()
    if not found and is_announced:  # {"invoice.pdf": "https://…"}
        others = [
            address for address in _of_fields(fields, fields.keys() - ADDRESS_FIELDS) if not address.is_other
        ]
        found += [(address, _describe(fields, recorded_address(address), names)) for address in others[:1]]
        found += [(address, bare_file(address, None)) for address in others[1:]]
    return found


def bare_file(address: Address, file_name: str | None) -> AnnouncedFile:
    """Return a file with nothing but an address, and perhaps a name."""
    return AnnouncedFile(recorded_address(address), _bounded(file_name, _MOST_NAME), None, None)


def read_addresses(text: str) -> list[Address]:
    """Return the addresses in a text that lists files."""
    exact = exact_address(text)
    return [exact] if exact else addresses_in(unescaped(text), MOST_ATTACHMENTS, is_list=True)[0]


def recorded_address(address: Address) -> str:
    """Return an address for the record; a longer one is cut, and can no longer be downloaded."""
    text = clean(address.text).strip()
    return text if len(text) <= MOST_ADDRESS else text[:MOST_ADDRESS] + CUT


def _of_fields(fields: dict[str, object], words: Sequence[str] | set[str]) -> list[Address]:
    values = (
        [fields[word] for word in fields if word in words]
        if isinstance(words, set)
        else map(fields.get, words)
    )
    return [
        address for value in values if isinstance(value, str) and value for address in read_addresses(value)
    ]


def _describe(fields: dict[str, object], url: str, names: Sequence[str]) -> AnnouncedFile:
    size = _first(fields, _SIZES) or ""
    return AnnouncedFile(
        url=url,
        file_name=_bounded(_first(fields, names), _MOST_NAME),
        content_type=_bounded(_first(fields, _TYPES[:3]) or _media_type(fields.get("type")), _MOST_TYPE),
        size=int(size) if _SIZE.fullmatch(size) else None,
    )


def _first(fields: dict[str, object], words: Sequence[str]) -> str | None:
    for word in words:
        if word in fields and (text := text_of(fields[word])):
            return text
    return None


def _media_type(value: object) -> str | None:
    return text_of(value) if isinstance(value, str) and "/" in value else None


def _bounded(text: str | None, most: int) -> str | None:
    return clean(text[:most]) if text else None
