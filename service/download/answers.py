"""Tell the announced file from everything else that a server may answer with."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from aiohttp import ClientResponse

from service.backoff import asked_for
from service.errors import Permanent, Transient

_FILE_NAME = re.compile(r"filename\*?\s*=\s*(?:[\w-]+'[^']*')?\"?([^\";]+)", re.IGNORECASE)
_ENCODINGS = ("Content-Encoding", "Transfer-Encoding")
_REFUSALS = {
    401: ("unauthorized", "check the Zendesk credentials"),
    403: ("forbidden", "the credentials do not reach this file, or it was flagged as malware"),
    404: ("not_found", "the file is not there, or its address has expired"),
    410: ("attachment_gone", "the file was deleted"),
}


@dataclass(frozen=True)
class Expected:
    """What Zendesk announced; None where it did not."""

    file_name: str | None = None
    content_type: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Limits:
    """Bounds of one download; `seconds` runs from the first request to the last byte."""

    max_bytes: int
    seconds: float
    stall_seconds: float


def check_status(response: ClientResponse) -> None:
    status, answered = response.status, f"{response.url.raw_host} answered {response.status}"
    if status in _REFUSALS:
        code, text = _REFUSALS[status]
        raise Permanent(code, f"{answered}: {text}")
    if status == 429 or status in {408, 425} or 500 <= status <= 599:
        code = "rate_limited" if status == 429 else "server_error"
        raise Transient(code, answered, asked_for(response.headers.get("Retry-After", "")))
    if status != 200:
        raise Permanent("unexpected_status", answered)


def check_headers(response: ClientResponse, expected: Expected, limits: Limits) -> None:
    lines = [line for name in _ENCODINGS for line in response.headers.getall(name, ())]
    if {each.strip().lower() for line in lines for each in line.split(",")} - {"", "identity", "chunked"}:
        raise Permanent("unexpected_encoding", f"{response.url.raw_host} sent the file compressed, unasked")
    if (response.content_length or 0) > limits.max_bytes:
        raise too_large(response, limits)
    if "redacted.txt" in _names(response) and (expected.file_name or "").lower() != "redacted.txt":
        raise Permanent("redacted", "the file was redacted in Zendesk")


def check_head(response: ClientResponse, expected: Expected, head: bytes) -> None:
    """Tell Zendesk's sign-in page, which comes with a 200, from a page that somebody attached."""
    names = {expected.file_name.lower()} if expected.file_name else _names(response)
    announced = "html" in (expected.content_type or "").lower()
    if announced or any(name.endswith((".html", ".htm", ".xhtml")) for name in names):
        return
    is_page = head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
    if is_page and "html" in response.headers.get("Content-Type", "html").lower():
        raise Permanent(
            "sign_in_page", f"{response.url.raw_host} sent a page, not the file: check the credentials"
        )


def too_large(response: ClientResponse, limits: Limits) -> Permanent:
    return Permanent("too_large", f"{response.url.raw_host}: more than {limits.max_bytes} bytes")


def check_size(response: ClientResponse, expected: Expected, received: int) -> None:
    if expected.size in {None, received}:
        return
    message = f"{response.url.raw_host} sent {received} bytes, announced were {expected.size}"
    framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    if received < (expected.size or 0) and not framed:
        raise Transient("connection_lost", message)  # it ended by hanging up, which looks like breaking off
    raise Permanent("size_mismatch", message)


def _names(response: ClientResponse) -> set[str]:
    disposition = _FILE_NAME.search(response.headers.get("Content-Disposition", ""))
    names = (
        unquote(disposition[1]) if disposition else "",
        response.url.query.get("name", ""),
        response.url.name,
    )
    return {name.strip().lower() for name in names}
