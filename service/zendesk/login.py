"""The login at Zendesk: a fixed header, or access tokens that are renewed.

https://developer.zendesk.com/api-reference/ticketing/oauth/grant_type_tokens/
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

import aiohttp
import structlog

from service.errors import HoldfastError, Permanent, Transient
from service.outbound.backoff import parse_retry_after
from service.zendesk import rate_limit

# The share of a token's lifetime before its renewal; the old token stays valid meanwhile.
RENEW_AFTER = 0.8
# The first and the longest pause between two requests for a token after a failure.
PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 30.0
# A token's lifetime if the answer does not tell.
_USUAL_LIFE_SECONDS = 1800
_MOST_TOKEN_BYTES = 64 * 1024

_IDENTIFY = "check ZENDESK_OAUTH_CLIENT_ID and ZENDESK_OAUTH_CLIENT_SECRET"
_KIND = "it must be of the kind Confidential in Admin Center"
# Any other error concerns the request and not the client: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
_OAUTH_ERRORS = {
    "invalid_client": _IDENTIFY,
    "invalid_grant": _IDENTIFY,
    "invalid_request": _IDENTIFY,
    "invalid_scope": "allow the client the scope `{scope}` in Admin Center",
    "unauthorized_client": _KIND,
    "unsupported_grant_type": _KIND,
}
# Another account, or none, answers there.
_NO_ACCOUNT = {301, 302, 303, 307, 308, 404}

log = structlog.get_logger()


class Login(Protocol):
    """Gives the `Authorization` header for requests to one account."""

    async def header(self) -> str:
        """Return the header; raises Transient or Permanent if there is none."""
        ...

    def accepted(self, header: str) -> None:
        """Note that a request with this header was not answered with 401."""
        ...

    async def refused(self, header: str) -> bool:
        """Note that a request with this header was answered with 401; return True if the next header may succeed."""
        ...

    def may_have_ended(self, header: str) -> bool:
        """Say whether a refusal of this header may only mean that its token has ended."""
        ...

    async def close(self) -> None: ...


class FixedLogin:
    """A header that never changes."""

    def __init__(self, header: str) -> None:
        self._header = header

    async def header(self) -> str:
        return self._header

    def accepted(self, header: str) -> None:
        pass

    async def refused(self, header: str) -> bool:  # noqa: ARG002 there is no other header
        return False

    def may_have_ended(self, header: str) -> bool:  # noqa: ARG002 it never ends
        return False

    async def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Token:
    """An access token as a header, and its lifetime in seconds."""

    header: str = field(repr=False)
    seconds: float


class ClientLogin:
    """One access token at a time, held in memory only.

    It is renewed in the background at 80 % of its lifetime, and after a 401. All requests share one request
    for a token, and no request waits while the old token is valid.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[Token]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._token: Token | None = None
        self._renew_at = self._ends_at = 0.0
        self._is_proved = False  # a request with this token was accepted
        self._fetching: asyncio.Task[Token] | None = None
        self._failures = 0  # in a row: failed requests for a token, and new tokens that were refused at once
        self._failure: HoldfastError | None = None
        self._pause_until = 0.0

    async def header(self) -> str:
        token, now = self._token, self._clock()
        if token is None or now >= self._ends_at:
            return (await self._fetched()).header
        if now >= max(self._renew_at, self._pause_until):
            self._start()
        return token.header

    def accepted(self, header: str) -> None:
        if not self._is_proved and self._token is not None and header == self._token.header:
            self._is_proved, self._failures = True, 0

    async def refused(self, header: str) -> bool:
        """Fetch another token, once for all requests that got the 401.

        If no request was accepted with the token nor with the one before it, another one comes after a growing pause:
        the token is probably not the cause. Raises Transient during that pause, as `header` does.
        """
        if self._token is None or header == self._token.header:
            if self._token is not None and not self._is_proved:
                self._pause_before_another()
            self._token = None
            await self._fetched()
        return True

    def may_have_ended(self, header: str) -> bool:
        """Say so of a token that a request was accepted with, or that another one has replaced."""
        return self._is_proved or self._token is None or header != self._token.header

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching}, timeout=1)

    async def _fetched(self) -> Token:
        """Wait for the running request for a token, or start one; after a failure, only after a pause."""
        pause = self._pause_until - self._clock()
        if self._fetching is None and self._failure is not None and pause > 0:
            raise _copy(self._failure, timedelta(seconds=pause))
        try:
            # A cancelled caller must not cancel the token of all others.
            return await asyncio.shield(self._start())
        except HoldfastError as exc:
            raise _copy(exc) from None  # an exception with many raisers would keep all their frames

    def _start(self) -> "asyncio.Task[Token]":
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._renew())
            self._fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._fetching

    async def _renew(self) -> Token:
        began = self._clock()
        try:
            token = await self._fetch()
        except HoldfastError as exc:
            self._failure = exc
            self._pause(exc.retry_after if isinstance(exc, Transient) else None)
            log.warning("token_not_renewed", code=exc.code)
            raise
        else:
            self._token, self._failure, self._is_proved = token, None, False
            self._renew_at = began + RENEW_AFTER * token.seconds
            self._ends_at = began + token.seconds
            return token
        finally:
            self._fetching = None

    def _pause_before_another(self) -> None:
        if self._failures:
            refused = "Zendesk refuses the access token that it has just given"
            self._failure = Transient("token_refused", refused)
        self._pause()

    def _pause(self, asked: timedelta | None = None) -> None:
        """Pause longer after each failure, or for the time that Zendesk asked for."""
        seconds = min(MOST_PAUSE_SECONDS, PAUSE_SECONDS * 2**self._failures)
        if asked is not None:
            seconds = max(seconds, min(asked.total_seconds(), rate_limit.MOST_PAUSE_SECONDS))
        self._failures = min(self._failures + 1, 16)
        self._pause_until = self._clock() + seconds


async def read_token(response: aiohttp.ClientResponse, scope: str) -> Token:
    """Read the answer of the endpoint of access tokens to the request for one with a scope.

    Raises Transient("token_unavailable"), without using up a retry, and Permanent("credentials_refused").
    """
    body = await _read_up_to(response, _MOST_TOKEN_BYTES)
    answer: object = None
    with suppress(ValueError):
        answer = json.loads(body)
    _refuse_client(response, answer, scope)
    return _read_token(response, answer)


def _copy(error: HoldfastError, wait: timedelta | None = None) -> HoldfastError:
    if isinstance(error, Transient):
        pause = error.retry_after if wait is None else wait
        return Transient(error.code, error.message, pause, counts=error.counts)
    return Permanent(error.code, error.message)


async def _read_up_to(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise Transient(
                "token_unavailable", "Zendesk's answer is too long for an access token", counts=False
            )
    return bytes(body)


def _refuse_client(response: aiohttp.ClientResponse, answer: object, scope: str) -> None:
    """Raise Permanent("credentials_refused") if the answer concerns the client, with advice."""
    error = answer.get("error") if isinstance(answer, dict) else None
    advice = _OAUTH_ERRORS.get(error) if isinstance(error, str) and 400 <= response.status < 500 else None
    if advice is None and response.status == 401:
        advice = _IDENTIFY
    if advice is not None:
        refused = f"{response.url.raw_host} answered {response.status} to the OAuth client"
        raise Permanent("credentials_refused", f"{refused}: {advice.format(scope=scope)}")


def _read_token(response: aiohttp.ClientResponse, answer: object) -> Token:
    status = response.status
    where = ": check ZENDESK_SUBDOMAIN (or ZENDESK_URL)" if status in _NO_ACCOUNT else ""
    unavailable = Transient(
        "token_unavailable",
        f"{response.url.raw_host} answered {status} instead of giving an access token{where}",
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
