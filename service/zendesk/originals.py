"""Recognise the original of an e-mail among an address's answers, and read its date and subject.

Zendesk documents no API for originals: the answer may as well be a page, an error, or another e-mail.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32
from email.utils import parsedate_to_datetime
from encodings import normalize_encoding
from encodings.aliases import aliases
from itertools import islice

from service.zendesk.body import clean

HEADER_BYTES = 256 * 1024  # the headers beyond are not read

_MOST_FIELDS = 30  # an e-mail has one of each; relays add others by mistake
_MOST_BYTES = 8_000  # of one field
_MOST_VALUE = 4_000  # characters of one field
_MOST_SUBJECT = 1_000
# A field's name: printable ASCII without a colon (RFC 5322, 3.6.8), and no beginning of HTML or JSON.
_FIELD = re.compile(rb"(?![<{\[\"])[!-9;-~]{1,200}[ \t]*:")
_EMPTY_LINE = re.compile(rb"(?>\r\n|\n|\r){2}")
_READ_FIELDS = re.compile(
    rb"(?:\A|(?<=[\r\n]))(message-id|date|subject)[ \t]*+:([^\r\n]*+(?:(?>\r\n|\n|\r)[ \t][^\r\n]*+)*+)",
    re.IGNORECASE,
)
# Adjacent words form one text: a character may be split between two of them.
_ENCODED_WORDS = re.compile(
    r"=\?[^?\s]{1,60}\?[bBqQ]\?[ ->@-~]*\?=(?:[ \t]*=\?[^?\s]{1,60}\?[bBqQ]\?[ ->@-~]*\?=)*"
)
# Charsets that Python knows under names without an alias, or not by the names that e-mails use. Other names are not
# looked up: Python keeps each unknown name in memory.
_UNLISTED = {"koi8_u": "koi8_u", "windows_874": "cp874", "iso_8859_8_i": "iso8859_8"}
_CHARSETS = {*aliases, *aliases.values(), *_UNLISTED.values()}
_FOLD = re.compile(r"[\r\n]+")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Original:
    """What only the original of an e-mail tells: its own date, aware, and its own subject."""

    date: datetime | None
    subject: str | None


def read_original(data: bytes, message_id: str | None) -> Original | None:
    """Return the facts of an e-mail in RFC 5322's format with this Message-ID; None for any other bytes."""
    wanted = _bare_id(message_id or "")
    block = _header_block(data)
    if not wanted or not block:
        return None
    # The newer policies parse a header's value themselves, and fail on some malformed ones.
    headers = BytesHeaderParser(policy=compat32).parsebytes(block)
    if wanted not in map(_bare_id, _values(headers, "message-id")):
        return None
    subject = clean(_decoded(next(_values(headers, "subject"), "")))
    return Original(
        _read_date(next(_values(headers, "date"), "")), subject.strip()[:_MOST_SUBJECT].rstrip() or None
    )


def _header_block(data: bytes) -> bytes:
    """Return the fields of the header that are read; b"" if the bytes do not begin with a header."""
    head = data[:HEADER_BYTES]
    end = _EMPTY_LINE.search(head)
    block = head[: end.start()] if end else head
    if not _FIELD.match(block):
        return b""
    fields = islice(_READ_FIELDS.finditer(block), _MOST_FIELDS)
    return b"".join(field[1] + b":" + field[2][:_MOST_BYTES].rstrip() + b"\r\n" for field in fields)


def _values(headers: Message, name: str) -> Iterator[str]:
    """Yield a header's values, unfolded and cut, with stray bytes read as UTF-8 or as windows-1252."""
    for key, value in headers.raw_items():
        if key.lower() == name:
            text = _FOLD.sub("", str(value))[:_MOST_VALUE]
            yield _text(text.encode("ascii", "surrogateescape"), "utf-8").strip()


def _bare_id(message_id: str) -> str:
    return _SPACE.sub("", message_id).strip("<>")


def _read_date(text: str) -> datetime | None:
    # The errors that the library raises for malformed dates.
    with suppress(ValueError, OverflowError, TypeError, IndexError):
        date = parsedate_to_datetime(text[:200])
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    return None


def _decoded(text: str) -> str:
    """Decode the encoded words of RFC 2047; keep one that cannot be decoded as it is."""
    return _ENCODED_WORDS.sub(_decode_words, text)


def _decode_words(match: re.Match[str]) -> str:
    try:
        words = decode_header(match[0])
    except HeaderParseError:
        return match[0]
    return "".join(word if isinstance(word, str) else _text(word, charset or "") for word, charset in words)


def _text(data: bytes, charset: str) -> str:
    """Decode bytes in the charset, or else in UTF-8 or windows-1252."""
    name = normalize_encoding(charset.partition("*")[0]).lower()  # RFC 2231 adds a language: utf-8*de
    name = _UNLISTED.get(name, name)
    for encoding in (name if name in _CHARSETS else "utf_8", "utf_8"):
        with suppress(LookupError, ValueError):  # unknown, or other bytes than named
            return data.decode(encoding)
    return data.decode("windows-1252", "replace")
