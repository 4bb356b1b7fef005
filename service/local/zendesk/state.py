"""The state of a stand-in Zendesk: files, scripted faults, comments, and the requests that it received."""

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

_ADDRESS_SECONDS = 60


@dataclass(frozen=True, eq=False)
class Fault:
    """A script for one request; defaults leave the usual answer."""

    status: int | None = None  # the answer, with `headers` and `body`
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    at_cdn: bool = False  # status and delay apply at the CDN, not at the account
    delay_seconds: float = 0  # before the answer
    sign_in: bool = False  # the page for missing credentials: 200 and HTML
    redacted: bool = False  # the answer is an empty redacted.txt
    bytes_per_second: float | None = None
    chunked: bool = False  # no Content-Length
    pause_after: int | None = None  # bytes; then `paused` is set and `resume` awaited
    paused: asyncio.Event = field(default_factory=asyncio.Event)
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    reset_after: int | None = None  # bytes; then the connection is reset


@dataclass(eq=False)
class ServedFile:
    """An attachment at Zendesk. Each request with credentials uses up one of `faults`."""

    id: int
    token: str
    name: str
    content: bytes
    content_type: str
    public: bool  # no credentials needed
    faults: deque[Fault]
    requests: int = 0  # to the account, with or without credentials
    downloads: int = 0  # completed by the CDN

    @property
    def path(self) -> str:
        return f"/attachments/token/{self.token}/?name={url_name(self.name)}"


@dataclass(frozen=True, eq=False)
class TemporaryAddress:
    """A temporary address at the CDN, with the script for its download."""

    file: ServedFile
    fault: Fault
    expires: float  # monotonic seconds


@dataclass
class StandInState:
    """The state of one stand-in; tests read and change it."""

    email: str
    api_token: str
    oauth_token: str | None
    client_id: str = ""
    client_secret: str = ""
    token_seconds: float = 1800  # the longest life of an access token
    token_faults: deque[Fault] = field(default_factory=deque)  # for the next token requests
    token_requests: int = 0
    access_tokens: dict[str, float] = field(default_factory=dict)  # expiry in monotonic seconds, by token
    api_faults: deque[Fault] = field(default_factory=deque)  # for the next API calls
    api_headers: dict[str, str] = field(default_factory=dict)  # added to each answer of the API
    api_calls: int = 0
    account_url: str = ""
    cdn_url: str = ""
    files: dict[str, ServedFile] = field(default_factory=dict)  # by token
    addresses: dict[str, TemporaryAddress] = field(default_factory=dict)  # by raw query string
    comments: dict[str, list[dict[str, object]]] = field(default_factory=dict)  # by ticket
    account_authorizations: list[str] = field(default_factory=list)  # raw headers
    cdn_authorizations: list[str] = field(default_factory=list)  # any entry here is a leak
    ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(9_001))

    def add_address(self, file: ServedFile, fault: Fault) -> str:
        """Add a temporary address. Its query has escapes that a client must send unchanged."""
        query = f"token={secrets.token_urlsafe(24)}%2Bv2%3D%3D&sig=a%2Fb~c"
        self.addresses[query] = TemporaryAddress(file, fault, time.monotonic() + _ADDRESS_SECONDS)
        name = "redacted.txt" if fault.redacted else url_name(file.name)
        return f"{self.cdn_url}/{name}?{query}"

    def give_token(self, seconds: float) -> tuple[str, float]:
        """Add an access token; return it and its life in seconds."""
        token, life = secrets.token_hex(32), min(seconds, self.token_seconds)
        self.access_tokens[token] = time.monotonic() + life
        return token, life

    def knows_token(self, token: str) -> bool:
        return time.monotonic() < self.access_tokens.get(token, 0)

    def find_address(self, query: str) -> TemporaryAddress | None:
        address = self.addresses.get(query)
        return address if address and time.monotonic() < address.expires else None


def url_name(name: str) -> str:
    """Escape a file's name for an address or a header, cut to 100 characters."""
    return quote(name[:100], safe="", errors="replace")
