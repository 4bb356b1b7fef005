"""Checks of a response to a download, and the meaning of the HTTP client's errors."""

import re
import ssl
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import unquote

import aiohttp
from aiohttp import ClientResponse
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient
from service.outbound.backoff import RETRYABLE, parse_retry_after
from service.outbound.decoding import codings_of

_FILE_NAME = re.compile(r"filename\*?\s*=\s*(?:[\w-]+'[^']*')?\"?([^\";]+)", re.IGNORECASE)
_REFUSALS = {
    401: ("unauthorized", "check the Zendesk credentials"),
    403: ("forbidden", "the credentials do not allow this file, or it was flagged as malware"),
    404: ("not_found", "the file is not there, or its address has expired"),
    410: ("attachment_gone", "the file was deleted"),
}
# Statuses that say "not yet": a later request may get the file.
_NOT_READY = {202: "accepted", 409: "in conflict", 423: "locked"}

# Office programs do not save HTML under these names.
_NO_OFFICE = (".pdf", ".png", ".jpg", ".jpeg", ".gif", ".zip", ".xml")
_REDACTED = "redacted.txt"
_HEAD_BYTES = 4096
_PAGE_NAMES = (".html", ".htm", ".xhtml", ".mht", ".mhtml")
_PAGE = re.compile(
    rb"(?:<\?xml[^>]*+>|<!--(?>.*?-->)|<(?:link|noscript|div|form|center|p|font)\b[^>]*+>|\s++)*+"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script|input|h1|h2|style)\b",
    re.IGNORECASE | re.DOTALL,
)
# HTML of an office program, saved as .xls or .doc.
_OFFICE = re.compile(rb"schemas-microsoft-com:office", re.IGNORECASE)
_SIGN_IN = re.compile(
    rb"""type=["']?password|/access/|/auth/v\d+|/hc/[\w-]*/?signin|sign[ _-]?in\b|log[ _-]?in\b|einloggen|anmelden""",
    re.IGNORECASE,
)
_FAILURES: tuple[tuple[type[BaseException], str, str], ...] = (  # the first match counts
    (aiohttp.ClientConnectorDNSError, "dns_failed", "the name does not resolve"),
    (UnicodeError, "dns_failed", "no name server can resolve such a name"),
    (aiohttp.ClientSSLError, "tls_failed", "no secure connection"),
    (ssl.SSLError, "tls_failed", "no secure connection"),
    (aiohttp.ConnectionTimeoutError, "connection_failed", "no connection in time"),
    (aiohttp.ClientConnectorError, "connection_failed", "no connection"),
    (aiohttp.SocketTimeoutError, "download_stalled", "no bytes for longer than DOWNLOAD_STALL_SECONDS"),
    (TimeoutError, "download_timeout", "not done within DOWNLOAD_SECONDS"),
    (aiohttp.ClientPayloadError, "connection_lost", "the connection broke within the file"),
    (OSError, "connection_lost", "the connection broke"),
    (aiohttp.ClientConnectionError, "connection_lost", "the connection broke"),
    (Exception, "bad_response", "its answer is not valid HTTP"),
)


@dataclass(frozen=True)
class Expected:
    """Zendesk's announcement of a file; None where it lacks a value. `may_be_empty` accepts an empty response."""

    file_name: str | None = None
    content_type: str | None = None
    size: int | None = None
    may_be_empty: bool = True


@dataclass(frozen=True)
class Limits:
    """Bounds of one download; `seconds` runs from the first request to the last byte."""

    max_bytes: int
    seconds: float
    stall_seconds: float
    redirects: int = 5


def check_status(response: ClientResponse) -> None:
    try:
        _check_status(response)
    except HoldfastError as exc:
        exc.answered = response.status
        raise


def _check_status(response: ClientResponse) -> None:
    status, answered = response.status, f"{response.url.raw_host} answered {response.status}"
    if status in _REFUSALS:
        code, text = _REFUSALS[status]
        raise Permanent(code, f"{answered}: {text}")
    if status in _NOT_READY:
        raise Transient("not_ready", f"{answered} ({_NOT_READY[status]})", _retry_after(response))
    if status in RETRYABLE or 500 <= status <= 599:
        code = "rate_limited" if status == 429 else "server_error"
        raise Transient(code, answered, _retry_after(response))
    if status != 200:
        raise Permanent("unexpected_status", answered)


def check_headers(response: ClientResponse, expected: Expected, limits: Limits) -> None:
    transfer_codings = [each.strip().lower() for each in response.headers.getall("Transfer-Encoding", ())]
    # After any other coding, the HTTP client may take the frames for the file.
    if transfer_codings not in ([], ["chunked"]):
        only = "the file in a transfer coding other than chunked"
        raise Permanent("unexpected_encoding", f"{response.url.raw_host} sent {only}")
    if (response.content_length or 0) > limits.max_bytes:
        raise too_large(response, limits)
    if _is_redacted(response) and (expected.file_name or _REDACTED).lower() != _REDACTED:
        raise _redacted()


def codings(response: ClientResponse, expected: Expected) -> list[str]:
    """Return the content codings to decode; raises Permanent."""
    # As many bytes as announced: this is the file itself, even if a header names a coding.
    if expected.size is not None and response.content_length == expected.size:
        return []
    name = expected.file_name or max(_names(response), key=len)
    return codings_of(",".join(response.headers.getall("Content-Encoding", ())), name)


def check_head(response: ClientResponse, expected: Expected, head: bytes, *, of_account: bool) -> None:
    """Raise Permanent for Zendesk's sign-in page, sent with a 200; for responses without a redirect.

    The account answers an authorised request with a redirect to its CDN. A page without the redirect is not
    the file, unless a page was announced and this is no sign-in page of the account.
    """
    text = head[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"").lstrip(b"\xff\xfe \t\r\n")
    content_type = response.headers.get("Content-Type", "html").lower()
    if of_account and _is_refusal(text, content_type, expected):
        raise sign_in_page(response.url)
    if "html" not in content_type or not _PAGE.match(text):
        return
    names = {expected.file_name.lower()} if expected.file_name else _names(response)
    is_page = "html" in (expected.content_type or "").lower() or any(
        name.endswith(_PAGE_NAMES) for name in names
    )
    is_office = _OFFICE.search(text) and not any(name.endswith(_NO_OFFICE) for name in names)
    if (of_account and _SIGN_IN.search(text)) or not (is_page or is_office):
        raise sign_in_page(response.url)


def _is_refusal(text: bytes, content_type: str, expected: Expected) -> bool:
    """Say whether this is an error of the API, in JSON or as text, and not a file of such a type."""
    is_json = "json" in content_type and text.startswith((b'{"error', b'{ "error'))
    is_words = "text/plain" in content_type and len(text) < 200 and _SIGN_IN.search(text) is not None
    name = (expected.file_name or "").lower()
    return (is_json and not name.endswith(".json")) or (
        is_words and not name.endswith((".txt", ".log", ".csv"))
    )


def sign_in_page(url: URL) -> Permanent:
    return Permanent(
        "sign_in_page",
        f"{url.raw_host} asks for a sign-in instead of sending the file: check the Zendesk credentials",
    )


def too_large(response: ClientResponse, limits: Limits) -> Permanent:
    return Permanent("too_large", f"{response.url.raw_host}: more than {limits.max_bytes} bytes")


def check_size(response: ClientResponse, expected: Expected, received: int) -> None:
    """Check the received size; raises Transient and Permanent if these bytes cannot be the announced file."""
    if not received and expected.size != 0:
        if _is_redacted(response):
            raise _redacted()
        if expected.size is None and not expected.may_be_empty:
            raise Transient("empty_answer", f"{response.url.raw_host} sent an empty response")
    # Otherwise the server ended it by closing the connection, just as a lost connection ends.
    framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    if expected.size is None and not framed:
        raise Transient("connection_lost", _unproven(response, received))
    if expected.size in {None, received}:
        return
    message = f"{response.url.raw_host} sent {received} bytes instead of the announced {expected.size}"
    if received < (expected.size or 0) and not framed:
        raise Transient("connection_lost", message)
    raise Permanent("size_mismatch", message)


def _unproven(response: ClientResponse, received: int) -> str:
    host = response.url.raw_host
    return f"{host} sent no length: nothing says whether the {received} bytes that came are the whole file"


def _is_redacted(response: ClientResponse) -> bool:
    """Say whether the file has Zendesk's name for a removed file; that one is empty, and a sender's own is not."""
    return _REDACTED in _names(response)


def _redacted() -> Permanent:
    return Permanent("redacted", "the file was redacted in Zendesk")


def _retry_after(response: ClientResponse) -> timedelta | None:
    return parse_retry_after(response.headers.get("Retry-After", ""))


def _names(response: ClientResponse) -> set[str]:
    disposition = _FILE_NAME.search(response.headers.get("Content-Disposition", ""))
    names = (
        unquote(disposition[1]) if disposition else "",
        response.url.query.get("name", ""),
        response.url.name,
    )
    return {name.strip().lower() for name in names}


def translate(exc: Exception, hop: URL) -> HoldfastError:
    """Translate an error at this hop; aiohttp's text contains the whole address, and perhaps a token in it."""
    refusal = getattr(exc, "os_error", None)
    if isinstance(refusal, Permanent):
        return Permanent(refusal.code, f"{hop.raw_host} {refusal.message}")
    code, text = next((code, text) for kind, code, text in _FAILURES if isinstance(exc, kind))
    detail = getattr(exc, "certificate_error", None) or refusal or type(exc).__name__
    return Transient(code, f"{hop.raw_host}: {text} ({detail})")
