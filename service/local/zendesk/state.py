"""What the stand-in Zendesk knows and notes: files, scripted faults, comments, requests."""

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

_GRANT_SECONDS = 60


@dataclass(frozen=True, eq=False)
class Fault:
    """One scripted download; what it does not say happens as usual."""

    status: int | None = None  # answered with `headers` and `body`, by the account or the CDN
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    at_cdn: bool = False
    delay_seconds: float = 0  # before any header, where `status` would come from
    sign_in: bool = False  # the page that one gets without credentials: 200 and HTML
    redacted: bool = False  # an empty redacted.txt instead
    bytes_per_second: float | None = None
    chunked: bool = False  # no Content-Length
    pause_after: int | None = None  # bytes; then `paused` is set and `resume` awaited
    paused: asyncio.Event = field(default_factory=asyncio.Event)
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    reset_after: int | None = None  # bytes; then the connection is reset


@dataclass(eq=False)
class ServedFile:
    """An attachment at Zendesk. `faults` are used up first, one a request that got past the credentials."""

    id: int
    token: str
    name: str
    content: bytes
    content_type: str
    public: bool  # needs no credentials
    faults: deque[Fault]
    requests: int = 0  # at the account, with or without credentials
    downloads: int = 0  # sent whole by the CDN

    @property
    def path(self) -> str:
        return f"/attachments/token/{self.token}/?name={url_name(self.name)}"


@dataclass(frozen=True, eq=False)
class TemporaryAddress:
    """A temporary address at the CDN, and what will happen there."""

    file: ServedFile
    fault: Fault
    expires: float  # monotonic seconds


@dataclass
class StandInState:
    """The state of one stand-in; tests read the lists and counters."""

    email: str
    api_token: str
    oauth_token: str | None
    client_id: str = ""
    client_secret: str = ""
    token_seconds: float = 1800  # the longest life that an access token gets
    token_faults: deque[Fault] = field(default_factory=deque)  # of the next requests for an access token
    token_requests: int = 0
    access_tokens: dict[str, float] = field(default_factory=dict)  # when each ends, in monotonic seconds
    api_faults: deque[Fault] = field(
        default_factory=deque
    )  # of the next calls of the API with good credentials
    api_headers: dict[str, str] = field(default_factory=dict)  # of each answer of the API
    api_calls: int = 0
    account_url: str = ""
    cdn_url: str = ""
    files: dict[str, ServedFile] = field(default_factory=dict)  # by token
    grants: dict[str, TemporaryAddress] = field(default_factory=dict)  # by raw query string
    comments: dict[str, list[dict[str, object]]] = field(default_factory=dict)  # by ticket
    account_authorizations: list[str] = field(default_factory=list)  # headers as they came
    cdn_authorizations: list[str] = field(default_factory=list)  # any entry here is a leak
    ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(9_001))

    def grant(self, file: ServedFile, fault: Fault) -> str:
        """Make a short-lived address. Its token holds escapes that a client must send as they are."""
        query = f"token={secrets.token_urlsafe(24)}%2Bv2%3D%3D&sig=a%2Fb~c"
        self.grants[query] = TemporaryAddress(file, fault, time.monotonic() + _GRANT_SECONDS)
        name = "redacted.txt" if fault.redacted else url_name(file.name)
        return f"{self.cdn_url}/{name}?{query}"

    def give_token(self, seconds: float) -> tuple[str, float]:
        """Make an access token; return it and its life in seconds."""
        token, life = secrets.token_hex(32), min(seconds, self.token_seconds)
        self.access_tokens[token] = time.monotonic() + life
        return token, life

    def knows_token(self, token: str) -> bool:
        return time.monotonic() < self.access_tokens.get(token, 0)

    def redeem(self, query: str) -> TemporaryAddress | None:
        grant = self.grants.get(query)
        return grant if grant and time.monotonic() < grant.expires else None


def url_name(name: str) -> str:
    """Escape a file's name for an address or a header; cut, since both have limits."""
    return quote(name[:100], safe="", errors="replace")
