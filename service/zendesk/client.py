"""The one HTTP client for a Zendesk account: its API, and the files behind its addresses.

https://developer.zendesk.com/api-reference/introduction/requests/
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from copy import copy
from dataclasses import replace
from datetime import timedelta
from enum import Enum, auto
from time import monotonic
from types import MappingProxyType
from urllib.parse import urlencode, urlsplit

import aiohttp
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient
from service.outbound.egress import Egress
from service.outbound.responses import Expected, Limits, translate
from service.outbound.transfer import Download, download
from service.telemetry.metrics import ZENDESK_CALLS, ZENDESK_CALLS_PUT_OFF, ZENDESK_REMAINING, code_label
from service.zendesk.access import ApiAccess, FileAccess, OriginalAccess
from service.zendesk.account import Account, FixedToken, OAuthClient
from service.zendesk.body import Unreadable, read_json
from service.zendesk.budget import Budget, pause_seconds, rate_limited
from service.zendesk.login import ClientLogin, FixedLogin, Login, Token, read_token
from service.zendesk.messages import TicketFacts, read_tickets
from service.zendesk.rate_limit import LEFT_TO_OTHERS, read_calls_left, read_calls_left_of, read_limit
from service.zendesk.writes import WriteMethod, write

# The scope of an access token that suffices for all but `holdfast connect`.
READ = "read"
# A page of a hundred comments, each with at most 64 kB of text in three forms; a page is held in memory.
MOST_PAGE_BYTES = 24 * 1024**2
# JSON and HTML write some characters as six: a page of so many comments fits whatever their texts are.
ITEMS, FEWER_ITEMS = 100, 10
# Simultaneous requests of one process to the API; each may hold a page.
CALLS_AT_ONCE = 16
# For one call, and for a request for an access token.
CALL_SECONDS = 60.0
STALL_SECONDS = 20.0
TOKEN_SECONDS = 10.0
# The lifetime that we ask for. The account's administrator may have set less, and the answer says so. Zendesk
# allows 300 s to 2 days.
TOKEN_LIFE_SECONDS = 7200
# Of a token with a wider scope, which one command uses.
WIDE_TOKEN_LIFE_SECONDS = 900
# A longer answer is parsed in a thread: parsing it takes milliseconds.
_LONG_BYTES = 256 * 1024
# The access token of a request, as Zendesk knows it.
TOKEN_PATH = "/api/v2/oauth/tokens/current.json"  # noqa: S105 no token
# Zendesk allows ten a minute to all programs of an account.
EXPORTS_PER_MINUTE = 8
# After a 429 without a usable Retry-After.
_PAUSE_SECONDS = 30.0
# The name of the exports' rate limit in headers.
_EXPORTS = "incremental-exports"

# Refusals of an original whose reason concerns all e-mails: credentials of the API are not enough. Any other one may
# concern this e-mail, such as a 404 for one that was redacted.
_OF_ACCOUNT = {"too_many_redirects", "sign_in_page", "unauthorized", "unexpected_status"}
# Answers to an access token that has ended; those to a token that this address never accepts are the same.
_SIGN_IN = {"too_many_redirects", "sign_in_page", "unauthorized"}
# Errors of an original that tell nothing about the account.
_NOT_OF_ZENDESK = {"too_large", "address_refused", "credentials_refused"}
_JSON = Expected(None, "application/json", None)
_EML = Expected("email.eml", "message/rfc822", None)
_ID = re.compile(r"[0-9]{1,30}")
# The endpoints of metrics, by the path of a call.
_ENDPOINTS = (
    ("comments", re.compile(r"/api/v2/tickets/[0-9]+/comments(\.json)?")),
    ("tickets", re.compile(r"/api/v2/tickets/(show_many|[0-9]+)(\.json)?")),
    ("events", re.compile(r"/api/v2/incremental/ticket_events(\.json)?")),
    ("lists", re.compile(r"/api/v2/(tickets|deleted_tickets|suspended_tickets)(\.json)?")),
    ("search", re.compile(r"/api/v2/search/export(\.json)?")),
)
_NO_QUERY: Mapping[str, str] = MappingProxyType({})
Json = dict[str, object]
Call = Callable[[], Awaitable[tuple[Json, Mapping[str, str]]]]
_EXPLANATIONS = {
    "unauthorized": "Zendesk does not accept the credentials: `holdfast check` tells more",
    "forbidden": "Zendesk refuses these credentials: they need the scope `read` and the role of an agent",
    "not_found": "Zendesk does not have it (yet), or not for these credentials",
    "attachment_gone": "it was deleted in Zendesk",
}


class Turn(Enum):
    """What a call waits for."""

    IN_ORDER = auto()  # for a place among this process's calls, and for the budget
    FIRST = auto()  # for the budget
    AT_ONCE = auto()  # for nothing


class ZendeskClient:
    """The client of one account; raises Transient and Permanent with stable codes, and nothing else."""

    def __init__(  # noqa: PLR0913 what it is made of
        self,
        account: Account,
        session: aiohttp.ClientSession,
        egress: Egress,
        budget: Budget,
        exports: Budget | None = None,
        *,
        scope: str = READ,
    ) -> None:
        self.account = account
        self._waits = True
        self._scope = scope
        self._session = session
        self._egress = egress
        self._budget = budget
        self._exports = exports or budget
        self._login = _open_login(self)
        self._calls = asyncio.Semaphore(CALLS_AT_ONCE)
        # Until the account gave an original, one caller asks and the others wait: if it gives none, it is asked once.
        self._first_original = asyncio.Lock()
        self._gives_originals = False

    @property
    def has_login(self) -> bool:
        return self._login is not None

    @property
    def refuses_originals(self) -> bool:
        """Whether the account is not asked for originals now, as far as this process knows."""
        return self._budget.refuses_originals

    async def close(self) -> None:
        if self._login is not None:
            await self._login.close()

    async def get(
        self,
        path: str,
        query: Mapping[str, str] = _NO_QUERY,
        *,
        reserve: float = 0.0,
        turn: Turn = Turn.IN_ORDER,
    ) -> dict[str, object]:
        """Get one object from the API; `path` begins with /api/v2/.

        `reserve` is the share of the budget that the call leaves to others, see `Budget.take`. A call AT_ONCE is
        outside the budget: only for callers that make few of them, out of the calls that the budget leaves to others.
        """
        return await self._get(self._url(path, query), reserve=reserve, turn=turn)

    async def export(self, path: str, query: Mapping[str, str], *, reserve: float = 0.0) -> dict[str, object]:
        """Get one object of an incremental export; these have a rate limit of their own, beside the account's.

        https://developer.zendesk.com/api-reference/ticketing/ticket-management/incremental_exports/#rate-limits
        """
        await self._exports.note_limit(EXPORTS_PER_MINUTE)
        await self._exports.take()
        return await self._get(self._url(path, query), reserve=reserve, paused=self._exports)

    async def ticket_facts(self, ticket_ids: Sequence[str]) -> Mapping[str, TicketFacts]:
        """Get the facts of at most a hundred tickets in one call; a ticket that Zendesk does not tell has none.

        While many look-ups wait for calls, behind them there would never be one.

        https://developer.zendesk.com/api-reference/ticketing/tickets/tickets/#show-multiple-tickets
        """
        asked = [ticket_id for ticket_id in ticket_ids if _ID.fullmatch(ticket_id)]
        page = (
            await self._get(
                self._url("/api/v2/tickets/show_many.json", {"ids": ",".join(asked)}), turn=Turn.FIRST
            )
            if asked
            else {"tickets": []}
        )
        found = read_tickets(page)
        return {ticket_id: found.get(ticket_id, TicketFacts(None, None)) for ticket_id in ticket_ids}

    async def write(
        self, method: WriteMethod, path: str, body: Json | None = None, query: Mapping[str, str] = _NO_QUERY
    ) -> Json:
        """Make a call that changes something at Zendesk; return its answer, {} where it has none.

        It is never repeated: after an error of the connection, Zendesk may have done it. Raises as `get` does, and
        Permanent("invalid_record") where Zendesk refuses the values.
        """
        url = self._url(path, query)
        assert self._login is not None  # noqa: S101 `_origin` requires it
        access = ApiAccess(self.account, self._login)
        return await self._budgeted(
            url, lambda: write(self._session, self._egress, access, method, url, body)
        )

    @asynccontextmanager
    async def with_scope(self, scope: str) -> AsyncIterator["ZendeskClient"]:
        """Yield a client whose access token has another scope; a fixed token has the scope that it has.

        It is for a command of a person, which makes few calls: they do not wait for those of a backlog.
        """
        client = ZendeskClient(self.account, self._session, self._egress, self._budget, scope=scope)
        try:
            yield client.urgent()
        finally:
            await client.close()

    def urgent(self) -> "ZendeskClient":
        """Return this client for a few calls that are counted in the budget, and made also where it is used up."""
        client = copy(self)
        client._waits = False  # noqa: SLF001 of the same class
        return client

    async def current_user(self) -> dict[str, object]:
        """Get the user of the credentials, outside the budget: a check must not depend on it, nor on Postgres.

        https://developer.zendesk.com/api-reference/ticketing/users/users/#show-self
        """
        url = f"{self._origin()}/api/v2/users/me.json"
        answer, _ = await self._observed(url, lambda: self._call(url))
        return answer

    async def pages(  # noqa: PLR0913 those of `get`, and where to begin and to end
        self,
        path: str,
        most: int,
        query: Mapping[str, str] = _NO_QUERY,
        *,
        reserve: float = 0.0,
        turn: Turn = Turn.IN_ORDER,
        start: str | None = None,
    ) -> AsyncGenerator[dict[str, object]]:
        """Yield page after page, until there is no next one; at most `most` of a hundred items. For the others see `get`.

        `start` is the address of a later page, out of `next_page`, to begin with. A page that is too large is asked for with
        fewer items, and so are those after it.
        https://developer.zendesk.com/api-reference/introduction/pagination/
        """
        url, left, times = start or self._url(path, query), most, ITEMS // FEWER_ITEMS
        while left:
            try:
                page = await self._get(url, reserve=reserve, turn=turn)
            except Permanent as exc:
                fewer = str(URL(url).update_query({"page[size]": str(FEWER_ITEMS)}))
                if exc.code != "too_large" or fewer == url:
                    raise
                page = await self._get(fewer, reserve=reserve, turn=turn)
                left, times = left * times, 1  # pages of fewer items are more pages
            yield page
            following = next_page(page)
            if following is None:
                return
            url, left = following, left - 1

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
                if exc.code not in {"sign_in_page", "unauthorized"} or not await self._has_ended(
                    access.shown
                ):
                    raise
                file = await stack.enter_async_context(opened())
            yield file

    @asynccontextmanager
    async def original(
        self,
        audit_id: str,
        ticket_id: str,
        limits: Limits,
        *,
        early: timedelta | None = None,
        reserve: float = 0.0,
    ) -> AsyncIterator[Download]:
        """Download the original of an e-mail, which Zendesk shows to agents and does not document.

        Raises Permanent("original_not_available") where Zendesk answers with a redirect, a page or a refusal. After one
        that concerns the account, it raises this for a day without a call, and `refuses_originals` is True. A call counts
        in the budget. Raises Permanent("too_large"), and Transient as `get` does. With `early`, the e-mail is so young that
        a 404 may only mean that Zendesk does not have its original yet: Transient("not_found"), with this time to wait.
        For `reserve` see `get`.
        """
        async with AsyncExitStack() as stack:
            async with nullcontext() if self._gives_originals else self._first_original:
                url = self._address_of_original(audit_id, ticket_id)
                await self._take(reserve)
                file = await self._open_original(stack, url, limits, early)
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
            "scope": self._scope,
            "expires_in": TOKEN_LIFE_SECONDS if self._scope == READ else WIDE_TOKEN_LIFE_SECONDS,
        }
        try:
            async with asyncio.timeout(TOKEN_SECONDS):
                async with self._session.post(url, json=asked, allow_redirects=False) as response:
                    return await read_token(response, self._scope)
        except HoldfastError:
            raise
        except Exception as exc:  # noqa: BLE001 a hostile response may raise from any line of aiohttp
            # Without the cause: its text or its frames may show the secret.
            why = f"{translate(exc, url).code} at {url.raw_host}"
            advice = "check ZENDESK_SUBDOMAIN (or ZENDESK_URL), and that this host may reach it"
            raise Transient(
                "token_unavailable", f"Zendesk gives no access token: {why}; {advice}", counts=False
            ) from None

    async def _has_ended(self, header: str | None) -> bool:
        """Say whether the token of a file's request has ended; then the next header is another one.

        Only the API tells: a file's server answers an ended token with a sign-in page, as it answers any token for a
        file that it does not give out. Raises Transient and Permanent.
        """
        if header is None or self._login is None or isinstance(self.account.login, FixedToken):
            return False
        if await self._login.header() == header:
            with suppress(Permanent):  # such as a 403: the token is known there
                await self.get(TOKEN_PATH, turn=Turn.FIRST)
        return await self._login.header() != header

    async def _open_original(
        self, stack: AsyncExitStack, url: URL, limits: Limits, early: timedelta | None
    ) -> Download:
        access = OriginalAccess(self.account, self._login, address=url)
        once = replace(limits, redirects=0)

        async def opened() -> Download:
            file = await stack.enter_async_context(
                download(self._session, self._egress, str(url), expected=_EML, limits=once, access=access)
            )
            _refuse_page(file)
            return file

        try:
            try:
                file = await opened()
            except Permanent as exc:
                may_have_ended = self._gives_originals and exc.code in _SIGN_IN
                if not may_have_ended or not await access.has_ended():
                    raise
                file = await opened()
        except HoldfastError as exc:
            ZENDESK_CALLS.labels("original", code_label(exc.code)).inc()
            raise await self._without_original(exc, early) from None
        ZENDESK_CALLS.labels("original", "ok").inc()
        self._gives_originals = True
        return file

    def _address_of_original(self, audit_id: str, ticket_id: str) -> URL:
        origin = URL(self._origin())
        if not (_ID.fullmatch(audit_id) and _ID.fullmatch(ticket_id)):
            raise _no_original("the ids of its audit and ticket are not numbers")
        if self._budget.refuses_originals:
            raise _no_original("the account refused one in the last 24 hours")
        return origin.with_path(f"/audits/{audit_id}/email.eml").with_query(ticket_id=ticket_id)

    def _origin(self) -> str:
        if self.account.url is None or self._login is None:
            missing = (
                "there are no credentials for Zendesk: set ZENDESK_SUBDOMAIN and ZENDESK_OAUTH_CLIENT_ID"
            )
            raise Permanent("credentials_missing", missing)
        return str(self.account.url.origin())

    def _url(self, path: str, query: Mapping[str, str]) -> str:
        return f"{self._origin()}{path}?{urlencode(query, safe='[]')}".rstrip("?")

    async def _get(
        self,
        url: str,
        *,
        reserve: float = 0.0,
        paused: Budget | None = None,
        turn: Turn = Turn.IN_ORDER,
    ) -> dict[str, object]:
        return await self._budgeted(url, lambda: self._call(url), reserve, paused, turn)

    async def _budgeted(
        self,
        url: str,
        call: Call,
        reserve: float = 0.0,
        paused: Budget | None = None,
        turn: Turn = Turn.IN_ORDER,
    ) -> dict[str, object]:
        """Make one call of the budget, and note what its answer tells of the account's rate limit.

        A refusal by the rate limit pauses the calls of the budget, or those of `paused`.
        """
        async with self._calls if turn is Turn.IN_ORDER else nullcontext():
            if turn is not Turn.AT_ONCE:
                await self._take(reserve)
            sent_at = monotonic()
            try:
                answer, headers = await self._observed(url, call)
            except Transient as exc:
                await self._pause(exc, paused or self._budget)
                raise
            await self._note_rate_limit(headers, sent_at)
            return answer

    async def _take(self, reserve: float = 0.0) -> None:
        try:
            await self._budget.take(reserve, waits=self._waits)
        except Transient as exc:
            if exc.code == "rate_limited":
                ZENDESK_CALLS_PUT_OFF.inc()
            raise

    async def _pause(self, error: Transient, budget: Budget) -> None:
        """Pause the calls of all workers if the account is at its rate limit."""
        if error.code == "rate_limited" and error.retry_after is not None:
            await budget.pause(error.retry_after.total_seconds())

    async def _observed(self, url: str, call: Call) -> tuple[dict[str, object], Mapping[str, str]]:
        """Make one call, and count it."""
        endpoint = _endpoint(url)
        try:
            answer = await call()
        except HoldfastError as exc:
            ZENDESK_CALLS.labels(endpoint, code_label(exc.code)).inc()
            raise _explained(exc) from None
        ZENDESK_CALLS.labels(endpoint, "ok").inc()
        return answer

    async def _call(self, url: str) -> tuple[dict[str, object], Mapping[str, str]]:
        limits = Limits(MOST_PAGE_BYTES, CALL_SECONDS, STALL_SECONDS)
        access = ApiAccess(self.account, self._login)
        body = bytearray()
        async with download(
            self._session, self._egress, url, expected=_JSON, limits=limits, access=access
        ) as answer:
            async for chunk in answer:
                body += chunk
        try:
            is_long = len(body) > _LONG_BYTES
            data = await asyncio.to_thread(read_json, bytes(body)) if is_long else read_json(bytes(body))
        except Unreadable as exc:
            raise Transient("bad_response", "Zendesk's API did not answer with JSON") from exc
        if not isinstance(data, dict):
            raise Transient("bad_response", "Zendesk's API did not answer with an object")
        return data, answer.headers

    async def _without_original(self, exc: HoldfastError, early: timedelta | None) -> HoldfastError:
        """Note a refusal of an original; other errors stay as they are."""
        exc = _explained(exc)
        if early is not None and exc.code == "not_found":
            return Transient(exc.code, exc.message, early)
        if isinstance(exc, Transient):
            await self._pause(exc, self._budget)
        if isinstance(exc, Transient) or exc.code in _NOT_OF_ZENDESK:
            return exc
        await self._budget.note_no_originals(of_account=exc.code in _OF_ACCOUNT)
        return _no_original(f"its answer is the error {exc.code}")

    async def _note_rate_limit(self, headers: Mapping[str, str], sent_at: float) -> None:
        """Note the account's rate limit and the rest of its minute, and pause before all of it is used up.

        https://developer.zendesk.com/api-reference/introduction/rate-limits/
        """
        if (limit := read_limit(headers)) is not None:
            await self._budget.note_limit(limit)
        if (left := read_calls_left(headers)) is not None:
            ZENDESK_REMAINING.set(left.remaining)
            await self._budget.note_calls_left(left, sent_at)
            seconds = left.seconds - (monotonic() - sent_at)
            if left.remaining <= left.limit // LEFT_TO_OTHERS and seconds > 0:
                await self._budget.pause(seconds)
        if self._exports is not self._budget and (of_exports := read_calls_left_of(_EXPORTS, headers)):
            await self._exports.note_calls_left(of_exports, sent_at)


def next_page(page: Mapping[str, object]) -> str | None:
    """Return the address of the page after this one; None for the last one, which may have an address of an empty page."""
    meta, links = page.get("meta"), page.get("links")
    if isinstance(meta, dict) and meta.get("has_more") is False:
        return None
    following = links.get("next") if isinstance(links, dict) else None
    return following if isinstance(following, str) else None


def _open_login(client: ZendeskClient) -> Login | None:
    match client.account.login:
        case OAuthClient() as oauth:
            return ClientLogin(lambda: client.fetch_token(oauth))
        case FixedToken(header=header):
            return FixedLogin(header)
        case _:
            return None


def _explained(exc: HoldfastError) -> HoldfastError:
    """Explain the error of a call, and bound the pause that it asks for."""
    if exc.code == "rate_limited":
        asked = exc.retry_after if isinstance(exc, Transient) else None
        return rate_limited(pause_seconds(asked.total_seconds() if asked is not None else _PAUSE_SECONDS))
    if isinstance(exc, Permanent) and exc.code in _EXPLANATIONS:
        explained = Permanent(exc.code, f"{exc.message.partition(':')[0]}: {_EXPLANATIONS[exc.code]}")
        explained.answered = exc.answered
        return explained
    return exc


def _endpoint(url: str) -> str:
    """Return the label of a call in metrics."""
    path = urlsplit(url).path
    return next((name for name, pattern in _ENDPOINTS if pattern.fullmatch(path)), "other")


def _refuse_page(file: Download) -> None:
    """Raise Permanent for a page that `download` does not take for one, because of its first tags."""
    if "html" in file.headers.get("Content-Type", "").lower():
        raise Permanent("sign_in_page", f"{file.host} sent a page instead of an e-mail")


def _no_original(reason: str) -> Permanent:
    return Permanent("original_not_available", f"Zendesk does not give the original of this e-mail: {reason}")
