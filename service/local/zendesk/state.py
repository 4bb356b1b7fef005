"""The state of a stand-in Zendesk: files, tickets, users, scripted faults, and the requests that it received."""

import asyncio
import itertools
import math
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from service.local.zendesk.audits import Audit, Listings, comment_change, seconds_of, status_change
from service.local.zendesk.rule_state import RuleState

# The user of the credentials.
AGENT_ID = 1_001
MalwareScan = Literal["not_scanned", "failed_to_scan", "malware_found", "malware_not_found"]

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
    malware_scan_result: MalwareScan = "malware_not_found"
    malware_access_override: bool = False  # an administrator allows the download though malware was found
    deleted: bool = False  # redacted
    token_made: float = field(default_factory=time.monotonic)
    requests: int = 0  # to the account, with or without credentials
    downloads: int = 0  # completed by the CDN

    @property
    def path(self) -> str:
        return f"/attachments/token/{self.token}/?name={url_name(self.name)}"

    @property
    def is_refused(self) -> bool:
        return self.malware_scan_result == "malware_found" and not self.malware_access_override


@dataclass(frozen=True, eq=False)
class TemporaryAddress:
    """A temporary address at the CDN, with the script for its download."""

    file: ServedFile
    fault: Fault
    expires: float  # monotonic seconds


@dataclass(frozen=True, eq=False)
class Original:
    """An e-mail as it came, by the id of its audit; `read` returns its bytes."""

    ticket: str
    read: Callable[[], bytes]


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
    calls: Counter[str] = field(default_factory=Counter)  # by endpoint, such as "comments" or "email.eml"
    lookups: Counter[str] = field(default_factory=Counter)  # requests for comments, by ticket
    calls_per_minute: int | None = None  # the account's rate limit; None for none
    minute_seconds: float = 60  # the length of a minute of the rate limit
    refused_calls: int = 0  # calls beyond the rate limit, answered with 429
    token_life_seconds: float | None = None  # of an attachment's address; None for ever
    gives_originals: bool = False  # whether programs may download e-mails as they came
    account_url: str = ""
    cdn_url: str = ""
    files: dict[str, ServedFile] = field(default_factory=dict)  # by token, also by those that have died
    addresses: dict[str, TemporaryAddress] = field(default_factory=dict)  # by raw query string
    comments: dict[str, list[dict[str, object]]] = field(default_factory=dict)  # by ticket
    restricted: set[str] = field(default_factory=set)  # tickets that the user of the credentials may not see
    tickets: dict[str, dict[str, object]] = field(default_factory=dict)  # by id, as the API shows them
    users: dict[int, dict[str, object]] = field(default_factory=dict)  # likewise
    originals: dict[int, Original] = field(default_factory=dict)  # by audit
    listings: Listings = field(default_factory=Listings)  # what its exports and lists show
    rules: RuleState = field(default_factory=RuleState)
    rule_faults: dict[str, Fault] = field(
        default_factory=dict
    )  # of calls about webhooks and triggers, by name
    account_authorizations: list[str] = field(default_factory=list)  # raw headers
    cdn_authorizations: list[str] = field(default_factory=list)  # any entry here is a leak
    ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(9_001))
    _user_ids: dict[str, int] = field(default_factory=dict)  # by e-mail address in lower case
    _minute: tuple[float, int] = (0, 0)  # its end in monotonic seconds, and the calls of it

    def file(self, url: str) -> ServedFile:
        """Return the file of an address."""
        return self.files[url.partition("/attachments/token/")[2].partition("/")[0]]

    def has_died(self, file: ServedFile, token: str) -> bool:
        """Return whether a file's address with this token is no longer valid."""
        life = self.token_life_seconds
        return token != file.token or (life is not None and time.monotonic() >= file.token_made + life)

    def expire(self, url: str) -> str:
        """Let an attachment's address die: it answers 404, and lists show a fresh one. Return the fresh one."""
        file = self.file(url)
        old, file.token, file.token_made = file.token, secrets.token_urlsafe(16), time.monotonic()
        self.files[file.token] = file
        for comment in self._update(file):
            comment["html_body"] = str(comment["html_body"]).replace(
                f"/token/{old}/", f"/token/{file.token}/"
            )
        return self.account_url + file.path

    def renew_addresses(self, comments: Sequence[Mapping[str, object]]) -> None:
        """Give a fresh address to each file of these comments whose address has died by its age."""
        if self.token_life_seconds is None:
            return
        ids = {attachment.get("id") for comment in comments for attachment in _attachments(comment)}
        for file in [file for token, file in self.files.items() if token == file.token and file.id in ids]:
            if self.has_died(file, file.token):
                self.expire(file.path)

    def scan(self, url: str, result: MalwareScan, *, override: bool = False) -> None:
        """Set what Zendesk's scan for malware found in a file. A file with malware is refused without override."""
        file = self.file(url)
        file.malware_scan_result, file.malware_access_override = result, override
        self._update(file)

    def redact(self, url: str) -> None:
        """Redact an attachment: an empty `redacted.txt` takes its place.

        https://developer.zendesk.com/api-reference/ticketing/tickets/ticket-attachments/#redact-comment-attachment
        """
        file = self.file(url)
        file.name, file.content, file.content_type, file.deleted = "redacted.txt", b"", "text/plain", True
        for comment in self._update(file):
            self._note(comment, "AttachmentRedactionEvent", attachment_id=file.id)

    def redact_text(self, comment_id: int, text: str) -> None:
        """Redact a text in a comment: ▇ takes the place of each character, and the original is redacted too.

        https://developer.zendesk.com/api-reference/ticketing/tickets/comment_redactions/
        """
        for comment in itertools.chain.from_iterable(self.comments.values()):
            if comment["id"] == comment_id:
                for name in ("body", "plain_body", "html_body"):
                    comment[name] = str(comment[name]).replace(text, "▇" * len(text))
                self._note(comment, "CommentRedactionEvent")
                match comment:
                    case {"metadata": {"system": {"eml_redacted": False} as system}}:
                        system["eml_redacted"] = True
                        self.originals.pop(int(str(comment["audit_id"])), None)

    def make_private(self, comment_id: int) -> None:
        """Make a public comment private: an internal note."""
        self._set_public(comment_id, public=False)

    def make_public(self, comment_id: int) -> None:
        """Make a private comment public again."""
        self._set_public(comment_id, public=True)

    def delete_ticket(self, ticket_id: str, *, forever: bool = False) -> None:
        """Delete a ticket, which is listed as deleted then; with `forever`, it is nowhere any more."""
        if forever:
            self.listings.deleted.pop(ticket_id, None)
            self.tickets.pop(ticket_id, None)
            self.comments.pop(ticket_id, None)
            return
        ticket, comments = self.tickets.pop(ticket_id), self.comments.pop(ticket_id)
        record = {
            "id": ticket["id"],
            "subject": ticket["subject"],
            "deleted_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "previous_state": ticket["status"],
        }
        self.listings.deleted[ticket_id] = (record, ticket, comments)
        self._note_status(ticket_id, "deleted", str(ticket["status"]))

    def restore_ticket(self, ticket_id: str) -> None:
        """Restore a deleted ticket."""
        _, self.tickets[ticket_id], self.comments[ticket_id] = self.listings.deleted.pop(ticket_id)
        self._note_status(ticket_id, str(self.tickets[ticket_id]["status"]), "deleted")

    def note_comment(self, ticket_id: str, comment: dict[str, object]) -> None:
        """Add the audit of a new comment."""
        number = int(str(comment["audit_id"]))
        self.listings.add(Audit(seconds_of(comment["created_at"]), number, ticket_id, comment))

    def _set_public(self, comment_id: int, *, public: bool) -> None:
        for comment in itertools.chain.from_iterable(self.comments.values()):
            if comment["id"] == comment_id:
                comment["public"] = public
                self._note(comment, "CommentPrivacyChange", public=public)

    def _note(self, comment: Mapping[str, object], kind: str, **more: object) -> None:
        """Add the audit of a change of a comment."""
        ticket_id = next(ticket for ticket, comments in self.comments.items() if comment in comments)
        child = comment_change(kind, int(str(comment["id"])), **more)
        self.listings.add(Audit(int(time.time()), next(self.ids), ticket_id, children=(child,)))
        self.tickets[ticket_id]["updated_at"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def _note_status(self, ticket_id: str, status: str, previous: str) -> None:
        child = status_change(status, previous)
        self.listings.add(Audit(int(time.time()), next(self.ids), ticket_id, children=(child,)))

    def user_id(self, name: str | None, address: str, role: str = "end-user") -> int:
        """Return the id of the user with this e-mail address, who is added if new."""
        known = self._user_ids.get(address.lower())
        if known is not None:
            return known
        number = self._user_ids[address.lower()] = 360_001 + len(self._user_ids)
        self.add_user(number, name or address, address, role)
        return number

    def add_user(self, number: int, name: str, address: str, role: str) -> None:
        self._user_ids[address.lower()] = number
        self.users[number] = {
            "id": number,
            "url": f"{self.account_url}/api/v2/users/{number}.json",
            "name": name,
            "email": address,
            "role": role,
            "active": True,
            "suspended": False,
            "verified": role != "end-user",
            "locale": "en-US",
            "time_zone": "Berlin",
        }

    def take_call(self) -> tuple[int | None, dict[str, str]]:
        """Count a call of the API; return the seconds to wait if it is one too many, and the limit's headers."""
        if self.calls_per_minute is None:
            return None, {}
        now, (end, used) = time.monotonic(), self._minute
        if now >= end:
            end, used = now + self.minute_seconds, 0
        self._minute = end, used + 1
        limit, remaining = str(self.calls_per_minute), str(max(0, self.calls_per_minute - used - 1))
        reset = math.ceil(end - now)
        headers = {
            "X-Rate-Limit": limit,
            "X-Rate-Limit-Remaining": remaining,
            "ratelimit-limit": limit,
            "ratelimit-remaining": remaining,
            "ratelimit-reset": str(reset),
        }
        is_refused = used >= self.calls_per_minute
        self.refused_calls += is_refused
        return (reset if is_refused else None), headers

    def end_minute(self) -> None:
        """Begin a new minute of the rate limit."""
        self._minute = (0, 0)

    def _update(self, file: ServedFile) -> list[dict[str, object]]:
        """Describe a file anew in all comments that list it; return them."""
        changed = []
        for comment in itertools.chain.from_iterable(self.comments.values()):
            for attachment in _attachments(comment):
                if attachment.get("id") == file.id:
                    attachment.update(describe(self, file, inline=bool(attachment.get("inline"))))
                    changed.append(comment)
        return changed

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


def describe(state: StandInState, file: ServedFile, *, inline: bool = False) -> dict[str, object]:
    """Return an attachment as the API shows it."""
    url = state.account_url + file.path
    return {
        "url": f"{state.account_url}/api/v2/attachments/{file.id}.json",
        "id": file.id,
        "file_name": file.name,
        "content_url": url,
        "mapped_content_url": url,
        "content_type": file.content_type,
        "size": len(file.content),
        "width": None,
        "height": None,
        "inline": inline,
        "deleted": file.deleted,
        "malware_access_override": file.malware_access_override,
        "malware_scan_result": file.malware_scan_result,
        "thumbnails": [],
    }


def _attachments(comment: Mapping[str, object]) -> Iterator[dict[str, object]]:
    listed = comment.get("attachments")
    return (one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else iter(())


def url_name(name: str) -> str:
    """Escape a file's name for an address or a header, cut to 100 characters."""
    return quote(name[:100], safe="", errors="replace")
