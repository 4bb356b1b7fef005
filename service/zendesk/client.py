"""The one HTTP client for a Zendesk account: its API, and the files behind its addresses.

https://developer.zendesk.com/api-reference/introduction/requests/
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient
from service.outbound.backoff import parse_retry_after
from service.outbound.egress import Egress
from service.outbound.responses import Expected, Limits, translate
from service.outbound.transfer import Download, download
from service.telemetry.metrics import ZENDESK_CALLS, ZENDESK_REMAINING, code_label
from service.zendesk.account import Account, FixedToken, OAuthClient, is_api_url
from service.zendesk.body import Unreadable, read_json
from service.zendesk.login import ClientLogin, FixedLogin, Login, Token

# A page of a hundred comments, each with at most 64 kB of text in three forms; a page is held in memory.
MOST_PAGE_BYTES = 24 * 1024**2
# Simultaneous requests of one process to the API; each may hold a page.
CALLS_AT_ONCE = 16
# For one call, and for a request for an access token.
CALL_SECONDS = 60.0
STALL_SECONDS = 20.0
TOKEN_SECONDS = 10.0
# The lifetime that we ask for. The account's administrator may have set less, and the answer says so. Zendesk
# allows 300 s to 2 days.
TOKEN_LIFE_SECONDS = 7200
# A token's lifetime if the answer does not tell.
_USUAL_LIFE_SECONDS = 1800
_MOST_TOKEN_BYTES = 64 * 1024
# After a 429 without a usable Retry-After.
_PAUSE_SECONDS = 30.0
_MOST_PAUSE_SECONDS = 600.0

# Any other error concerns the request and not the client: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
_OAUTH_ERRORS = {
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_grant_type",
}
_JSON = Expected(None, "application/json", None)
_EXPLANATIONS = {
    "unauthorized": "Zendesk does not accept the credentials: `holdfast check` tells more",
    "forbidden": "Zendesk refuses these credentials: they need the scope `read` and the role of an agent",
    "not_found": "Zendesk does not have it (yet), or not for these credentials",
    "attachment_gone": "it was deleted in Zendesk",
}


class ZendeskClient:
    """The client of one account; raises Transient and Permanent with stable codes, and nothing else."""

    def __init__(self, account: Account, session: aiohttp.ClientSession, egress: Egress) -> None:
        self.account = account
        self._session = session
        self._egress = egress
        self._login = _open_login(self)
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)
        self._resume_at = 0.0  # by time.monotonic: the earliest time of the next API call

    @property
    def has_login(self) -> bool:
        return self._login is not None

    async def close(self) -> None:
        if self._login is not None:
            await self._login.close()

    async def get(self, path: str, **query: str) -> dict[str, object]:
        """Get one object from the API; `path` begins with /api/v2/."""
        if self.account.url is None or self._login is None:
            missing = (
                "there are no credentials for Zendesk: set ZENDESK_SUBDOMAIN and ZENDESK_OAUTH_CLIENT_ID"
            )
            raise Permanent("credentials_missing", missing)
        return await self._get(f"{self.account.url.origin()}{path}?{urlencode(query, safe='[]')}".rstrip("?"))

    async def pages(self, path: str, most: int, **query: str) -> AsyncGenerator[dict[str, object]]:
        """Yield page after page, until there is no next one; at most `most`.

        https://developer.zendesk.com/api-reference/introduction/pagination/
        """
        page = await self.get(path, **query)
        yield page
        for _ in range(most - 1):
            links = page.get("links")
            following = links.get("next") if isinstance(links, dict) else None
            if not isinstance(following, str):
                return
            page = await self._get(following)
            yield page

    @asynccontextmanager
    async def file(self, address: str, expected: Expected, limits: Limits) -> AsyncIterator[Download]:
        """Download the file at an address; see `download`.

        Only attachments on the account's own hosts see the credentials.
        """
        url = self.account.absolute(address)
        access = FileAccess(self.account, self._login)

        def opened() -> AbstractAsyncContextManager[Download]:
            return download(self._session, self._egress, url, expected=expected, limits=limits, access=access)

        async with AsyncExitStack() as stack:
            try:
                file = await stack.enter_async_context(opened())
            except Permanent as exc:
                # A file's server answers an expired access token with a sign-in page, as it answers no token
                # at all.
                if exc.code != "sign_in_page" or not await access.has_ended():
                    raise
                file = await stack.enter_async_context(opened())
            yield file

    async def fetch_token(self, client: OAuthClient) -> Token:
        """Get an access token with the grant `client_credentials`.

        Raises Transient("token_unavailable"), without using up a retry, and Permanent("credentials_refused").
        """
        assert self.account.url is not None  # noqa: S101 a login requires the address
        url = self.account.url.with_path("/oauth/tokens")
        self._egress.check_url(url)
        asked = {
            "grant_type": "client_credentials",
            "client_id": client.client_id,
            "client_secret": client.secret.get_secret_value(),
            "scope": "read",
            "expires_in": TOKEN_LIFE_SECONDS,
        }
        try:
            async with asyncio.timeout(TOKEN_SECONDS):
                async with self._session.post(url, json=asked, allow_redirects=False) as response:
                    body = await _read_up_to(response, _MOST_TOKEN_BYTES)
                    return _read_token(response, body)
        except HoldfastError:
            raise
        except Exception as exc:  # noqa: BLE001 a hostile response may raise from any line of aiohttp
            # Without the cause: its text or its frames may show the secret.
            why = translate(exc, url).code
            raise Transient(
                "token_unavailable", f"Zendesk gives no access token: {why}", counts=False
            ) from None

    async def _get(self, url: str) -> dict[str, object]:
        async with self._calls:
            if (pause := self._resume_at - time.monotonic()) > 0:
                raise _rate_limited(pause)
            try:
                answer = await self._call(url)
            except HoldfastError as exc:
                ZENDESK_CALLS.labels(code_label(exc.code)).inc()
                raise self._explained(exc) from None
            ZENDESK_CALLS.labels("ok").inc()
            return answer

    async def _call(self, url: str) -> dict[str, object]:
        limits = Limits(MOST_PAGE_BYTES, CALL_SECONDS, STALL_SECONDS)
        access = ApiAccess(self.account, self._login)
        body = bytearray()
        async with download(
            self._session, self._egress, url, expected=_JSON, limits=limits, access=access
        ) as answer:
            self._note_rate_limit(answer.headers)
            async for chunk in answer:
                body += chunk
        try:
            data = read_json(bytes(body))
        except Unreadable as exc:
            raise Transient("bad_response", "Zendesk's API did not answer with JSON") from exc
        if not isinstance(data, dict):
            raise Transient("bad_response", "Zendesk's API did not answer with an object")
        return data

    def _explained(self, exc: HoldfastError) -> HoldfastError:
        """Explain the error of an API call, and pause all calls if the account is at its rate limit."""
        if exc.code == "rate_limited":
            asked = exc.retry_after if isinstance(exc, Transient) else None
            seconds = min(asked.total_seconds() if asked is not None else _PAUSE_SECONDS, _MOST_PAUSE_SECONDS)
            self._resume_at = max(self._resume_at, time.monotonic() + seconds)
            return _rate_limited(seconds)
        if isinstance(exc, Permanent) and exc.code in _EXPLANATIONS:
            return Permanent(exc.code, f"{exc.message.partition(':')[0]}: {_EXPLANATIONS[exc.code]}")
        return exc

    def _note_rate_limit(self, headers: Mapping[str, str]) -> None:
        """Pause before the account's rate limit is used up, because people and other programs need some calls too.

        https://developer.zendesk.com/api-reference/introduction/rate-limits/
        """
        remaining = _number(headers.get("ratelimit-remaining") or headers.get("X-Rate-Limit-Remaining"))
        limit = _number(headers.get("ratelimit-limit") or headers.get("X-Rate-Limit"))
        reset = parse_retry_after(headers.get("ratelimit-reset", ""))
        if remaining is None or limit is None:
            return
        ZENDESK_REMAINING.set(remaining)
        if remaining <= limit // 50 and reset is not None:
            self._resume_at = time.monotonic() + min(reset.total_seconds(), 60)


@dataclass
class FileAccess:
    """Shows the credentials to attachments of the account, and to nothing else."""

    account: Account
    login: Login | None
    _shown: str | None = field(default=None, repr=False)  # the header of the latest request that had one

    def shows(self, hop: URL) -> bool:
        return self.account.holds_file(hop)

    async def header(self, hop: URL) -> str | None:
        """Return the header for one hop; raises Permanent for an address of the account's API."""
        if self.account.owns(hop) and is_api_url(hop) and not self.shows(hop):
            raise Permanent(
                "address_refused", f"{hop.raw_host}: this is an address of Zendesk's API, not of a file"
            )
        if self.login is None or not self.shows(hop):
            return None
        self._shown = await self.login.header()
        return self._shown

    async def answered(self, header: str, status: int) -> bool:
        assert self.login is not None  # noqa: S101 the header came from it
        if status == 401:
            return await self.login.refused(header)
        self.login.accepted(header)
        return False

    async def has_ended(self) -> bool:
        """Replace the token of the last header; return False without one, or for a fixed token."""
        return self.login is not None and self._shown is not None and await self.login.refused(self._shown)

    def owns(self, hop: URL) -> bool:
        host = (hop.raw_host or "").lower()
        if host.endswith(".zdusercontent.com"):
            return False
        is_zendesk = host.endswith(".zendesk.com") or hop.raw_path.startswith("/attachments/")
        return is_zendesk or self.account.owns(hop)


class ApiAccess(FileAccess):
    """Shows the credentials only to the API at the account's own address."""

    def shows(self, hop: URL) -> bool:
        url = self.account.url
        return url is not None and hop.origin() == url.origin() and hop.raw_path.startswith("/api/v2/")


def _open_login(client: ZendeskClient) -> Login | None:
    match client.account.login:
        case OAuthClient() as oauth:
            return ClientLogin(lambda: client.fetch_token(oauth))
        case FixedToken(header=header):
            return FixedLogin(header)
        case _:
            return None


async def _read_up_to(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise Transient(
                "token_unavailable", "Zendesk's answer is too long for an access token", counts=False
            )
    return bytes(body)


def _read_token(response: aiohttp.ClientResponse, body: bytes) -> Token:
    status = response.status
    answer: object = None
    with suppress(ValueError):
        answer = json.loads(body)
    error = answer.get("error") if isinstance(answer, dict) else None
    if status == 401 or (400 <= status < 500 and error in _OAUTH_ERRORS):
        refused = f"{response.url.raw_host} answered {status} to the OAuth client"
        advice = "check ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET"
        raise Permanent("credentials_refused", f"{refused}: {advice}")
    unavailable = Transient(
        "token_unavailable",
        f"{response.url.raw_host} answered {status} instead of giving an access token",
        parse_retry_after(response.headers.get("Retry-After", "")),
        counts=False,
    )
    if status not in {200, 201} or not isinstance(answer, dict):
        raise unavailable
    token = answer.get("access_token")
    if not (isinstance(token, str) and token.isascii() and token.isprintable() and 0 < len(token) <= 4096):
        raise unavailable
    life = answer.get("expires_in")
    if not (isinstance(life, int | float) and 0 < life < 10 * 365 * 86400):
        life = _USUAL_LIFE_SECONDS
    return Token(f"Bearer {token}", float(life))


def _rate_limited(seconds: float) -> Transient:
    wait = timedelta(seconds=seconds)
    return Transient("rate_limited", "Zendesk's API takes no more requests for now", wait, counts=False)


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
