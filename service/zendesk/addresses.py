"""Find the addresses in a text: a template's list, HTML, markdown, or a message."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

from service.outbound.addresses import MOST_ADDRESS, MOST_HOST

CUT = "…[cut]"  # the end of a cut text; it makes the address longer than MOST_ADDRESS

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_ESCAPE = re.compile(r"\\{1,8}+(?:u([0-9a-fA-F]{4})|(?=/))")
# The possible beginnings of an address. Without a scheme it needs one of Zendesk's paths. The set of first
# letters comes first, because `re` searches fast for one of a set.
_START = re.compile(
    r"[hH/aAzZ](?:(?<=[hH])((?i:ttps?://))|(?<=/)(/)(?=[^\s/])|(?<=[aA])(?i:ttachments/)"
    r"|(?<=[zZ])(?i:dusercontent\.com[/:]))"
)
_BEFORE_SLASHES = " \t\r\n\"'<>|()[]=,;"
_END = re.compile('[\\s"<>|`{}^\\\\\x00-\x20\x7f\u200b\u201c-\u201e\u00ab\u00bb]')
_HOST_AND_PATH = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:/"
_PARTS = re.compile(r"(?:https?:)?//([^/?#\\]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE | re.DOTALL)
_PATH = re.compile(r"()(/[^?#]*)(?:\?([^#]*))?", re.DOTALL)
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")
_TOKEN = re.compile(r"/attachments/+token/+([^/]+)", re.IGNORECASE)
_ZENDESK_FILE = re.compile(r"/+(?:sc/+)?attachments/+(?!token(?:/|$))[^/]", re.IGNORECASE)
_RECORD = re.compile(r"/+api/", re.IGNORECASE)
_PAGE = re.compile(r"/+(?:agent|tickets|requests|users|hc/(?!.*article_attachments))(?:/|$)", re.IGNORECASE)
# A second address without a scheme, joined to the first one.
_JOINED = re.compile(r"[,;|](?:/|[\w.-]{0,253}(?:zdusercontent|zendesk))", re.IGNORECASE)
_USUAL_PORTS = {"80", "443"}
_CARRIER = re.compile(r"[?&][^=&]*=$")
# An address of an attachment in any encoding, such as the percent-encoded target in a redirecting link.
_SLASH = "(?:/|%(?:25)*+2f)++"
_TRACE = re.compile(
    rf"[aAzZ](?:(?<=[aA])(?i:ttachments{_SLASH}token{_SLASH}([^\s/?#%&\"'<>|\\;,)\]]+))"
    rf"|(?<=[zZ])(?i:dusercontent\.com(?::[0-9]+)?{_SLASH}[\w%]))"
)
_TRAILING = ".,;:!?'*~&#…。，；：！？、”’»"  # noqa: RUF001 the punctuation of other scripts
_JOINTS = _TRAILING + "+$@([·•→—–"  # noqa: RUF001 further characters that may separate two addresses
_BETWEEN = re.compile(r"(?:[\s,;|\"'()\[\]<>&`-]++|br\s{0,3}+/?>)*+", re.IGNORECASE)
_WORD = re.compile(r"[^\s/\\<>\"'=,;:|()\[\]{}&]+")
# A word with the ending of a file; "2.3" and "mr." have none.
_FILE_NAME = re.compile(r".+\.[A-Za-z][A-Za-z0-9]{1,3}", re.DOTALL)
_ENCODED = re.compile(r"\s*https?%3a%2f%2f", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """An address as it was sent; `host` is "" for a path alone, and a path belongs to the account.

    `port` is "" for the usual one of http and https.
    """

    text: str
    host: str
    port: str
    path: str
    query: str
    token: str | None  # identifies the file of a comment
    is_attachment: bool  # certainly the file of a comment, in any context
    is_other: bool  # another address of Zendesk: a record of the API, a ticket's page

    @property
    def file_name(self) -> str | None:
        """The file's name: in the query, or the last part of the path."""
        for part in self.query.split("&"):
            if part.startswith("name="):
                return unquote_plus(part[5:]) or None
        last = self.path.rpartition("/")[2]
        return unquote(last) if "." in last and last != self.token else None

    @property
    def is_too_long(self) -> bool:
        return len(self.text) > MOST_ADDRESS or len(self.host) > MOST_HOST

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of the file: a token is one file, in any spelling of the rest of its address."""
        if self.token is not None:
            return self.host, self.token, self.file_name or ""
        return f"{self.host}:{self.port}", self.path, self.query


def is_cdn(host: str) -> bool:
    """Say whether a host is Zendesk's CDN of stored files."""
    return host == "zdusercontent.com" or host.endswith(".zdusercontent.com")


def read_address(text: str) -> Address | None:
    """Parse an address; None for another text. The text is kept unchanged."""
    match = _PARTS.match(text[: MOST_ADDRESS + 1]) or _PATH.match(text[: MOST_ADDRESS + 1])
    if match is None:
        return None
    authority, path, query = match.groups("")
    host, port = _host_and_port(authority)
    if not host and not text.startswith("/"):
        return None
    if _RECORD.match(path):
        return Address(text, host, port, path, query, None, is_attachment=False, is_other=True)
    token = _TOKEN.search(path)
    is_zendesk = not host or host == "zendesk.com" or host.endswith(".zendesk.com")
    return Address(
        text,
        host,
        port,
        path,
        query,
        token=token[1] if token else None,
        is_attachment=token is not None
        or (is_zendesk and host != "" and _ZENDESK_FILE.match(path) is not None)
        or (len(path) > 1 and is_cdn(host)),
        is_other=is_zendesk and token is None and _PAGE.match(path) is not None,
    )


def _host_and_port(authority: str) -> tuple[str, str]:
    found = _HOST.match(authority.rpartition("@")[2])
    host, port = found.groups("") if found else ("", "")
    return host.rstrip(".").lower(), "" if port in _USUAL_PORTS else port


def may_contain_files(text: str) -> bool:
    """Say quickly whether a text may contain an address of an attachment."""
    low = text.lower()
    return "attachments" in low or "zdusercontent" in low


def exact_address(text: str) -> Address | None:
    """Read a text that is exactly one address; None for any other text."""
    text = text.strip().rstrip(",; ")
    if len(text) > MOST_ADDRESS or _JOINED.search(text, 8):
        return None
    if not text.startswith(("https://", "http://")) or "://" in text[8:] or ("&" in text and ";" in text):
        return None
    if _END.search(text.replace(" ", "")) or text.count("attachments") > 1 or "attachments%" in text:
        return None  # it may contain another address
    return read_address(text)


def addresses_in(text: str, most: int, *, is_list: bool) -> tuple[list[Address], bool]:
    """Return the addresses in a plain text, in order, and whether it contains nothing else.

    In a list any address counts, elsewhere only an attachment's. The search stops after more than `most`.
    """
    low = "" if is_list else text.lower()
    found: list[Address] = []
    end, is_pure = 0, True
    for start, stop, is_joined in _spans(text):
        if not is_list and "attachments" not in (span := low[start:stop]) and "zdusercontent" not in span:
            is_pure = False
            continue
        is_pure = is_pure and _BETWEEN.fullmatch(text, end, start) is not None
        written, end = _cut(text, start, stop, _JOINTS if is_joined else _TRAILING)
        address = read_address(written)
        if address and not (is_joined and _CARRIER.search(written[-300:])):
            found.append(address)
            if len(found) > most:
                break
    return found, is_pure and _BETWEEN.fullmatch(text, end) is not None


def file_names_beside(text: str) -> set[str]:
    """Return what looks like the name of a file in a plain text, outside of its addresses."""
    end, between = 0, []
    for start, stop, is_joined in _spans(text):
        between.append(text[end:start])
        _, end = _cut(text, start, stop, _JOINTS if is_joined else _TRAILING)
    words = _WORD.findall(" ".join([*between, text[end:]]))
    return {word for word in words if "@" not in word and _FILE_NAME.fullmatch(word)}


def attachment_tokens_in(text: str) -> Iterator[str]:
    """Yield the token of each attachment's address in a plain text, in any encoding; "" for one on the CDN."""
    for match in _TRACE.finditer(text):
        yield match[1] or ""


def unescaped(text: str) -> str:
    r"""Undo the escapes of HTML (`&amp;`) and of JSON within a text (`\/`)."""
    if _ENCODED.match(text):
        text = unquote(text)
    if "\\" in text:
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else "", text)
    for _ in range(3):  # HTML quoted in HTML has entities of entities
        if "&" not in text or not _ENTITY.search(text):
            break
        text = _ENTITY.sub(lambda match: _decode(match[0]), text)
    return text


def _spans(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield the start of each address, its latest end, and whether another address begins there."""
    start = end = -1
    for match in _START.finditer(text):
        begin = match.start()
        before = text[begin - 1 : begin]
        if match[2] and before and before not in _BEFORE_SLASHES:
            continue
        if not (match[1] or match[2]):
            if before.isalnum() or before in ("_", "-"):
                continue  # "article_attachments"
            before = text[max(0, begin - 300) : begin]
            begin -= len(before) - len(before.rstrip(_HOST_AND_PATH))
            if begin < end and (begin <= start or text[begin - 1] not in ",;"):
                continue  # part of the previous address
        if start >= 0:
            yield start, min(end, begin), begin < end
        start = begin
        if end <= match.end():
            stop = _END.search(text, match.end())
            end = stop.start() if stop else len(text)
    if start >= 0:
        yield start, end, False


def _cut(text: str, start: int, stop: int, trailing: str) -> tuple[str, int]:
    """Cut off the characters of the sentence or the markup; return the address and its end."""
    stop = min(stop, start + MOST_ADDRESS + 1)
    if text[start - 1 : start] == "'" and (quote := text.find("'", start, stop)) > 0:
        stop = quote
    address = text[start:stop]
    for opening, closing in ("()", "[]"):
        if closing in address:
            address = address[: _balanced(address, opening, closing)]
    address = address.rstrip(trailing)
    end = start + len(address)
    if address.startswith("//"):
        return f"https:{address}", end
    if address[:8].lower().startswith(("http://", "https://")) or address.startswith("/"):
        return address, end
    is_path = "." not in address.partition("/")[0]
    return f"/{address[address.find('attachments/') :]}" if is_path else f"https://{address}", end


def _balanced(text: str, opening: str, closing: str) -> int:
    """Return the position of the first closing bracket without an opening one; the length if there is none."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == opening) - (letter == closing)
        if depth < 0:
            return place
    return len(text)


_decode = lru_cache(maxsize=512)(html.unescape)
