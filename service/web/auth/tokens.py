"""Tokens: operators may do everything, readers may only read; without a token set, the API is closed."""

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import quote

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service.errors import Rejected, Transient
from service.formatting import printable
from service.operate import logins
from service.operate import sessions as ended
from service.queries.webhook_views import RequestView
from service.web.auth import sessions
from service.web.handling.keys import IDENTITY, RES, Identity, Role
from service.web.handling.middleware import add_help, problem, wants_page
from service.web.handling.requests import ask
from service.web.handling.site import is_ours
from service.zendesk.signature import to_bytes

REFUSAL_SECONDS = 0.25  # the delay of a wrong token
LOG_SECONDS = 10.0  # between two log lines about wrong tokens
# So many wrong tokens are delayed at a time; further ones are refused at once and take no memory. This slows down a person, and
# limits no rate: a right token gets in during many guesses, so each is compared. Their length makes guesses hopeless.
MOST_REFUSALS = 8
LONGEST_NAME = 100
LONGEST_SECRET = 100  # bytes
LONGEST_NEXT = 1000
SIGN_IN_PATH = "/sign-in"

# Browsers attach cookies and passwords to requests of any site.
_BROWSERS = frozenset({"basic", "dashboard"})
_READS = frozenset({"GET", "HEAD"})

log = structlog.get_logger()


@dataclass
class Refusals:
    """The wrong tokens in this process."""

    count: int = 0  # since the last log line
    logged_at: float = -LOG_SECONDS
    waiting: int = 0  # delayed now

    @property
    def are_many(self) -> bool:
        return self.waiting >= MOST_REFUSALS


Raw = TypeVar("Raw", bound=RequestView)
OPEN_PATHS = web.AppKey("open_paths", frozenset[str])  # as the routes spell them
READERS_PATHS = web.AppKey("readers_paths", frozenset[str])  # which readers may send a `POST` to
REFUSALS = web.AppKey("refusals", Refusals)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let requests to open paths pass, and requests with a token or a session."""
    if _is_open(request):
        return await handler(request)
    identity = await _identify(request)
    if identity is None or (identity.session and await session_has_ended(request, identity)):
        return _challenge(request)
    if request.method not in _READS:
        if identity.role == "reader" and not _is_for_readers(request):
            raise Rejected(403, "read_only", "API_READ_TOKEN may only read; use API_TOKEN.")
        if identity.via in _BROWSERS:
            check_origin(request, is_browser=identity.via == "dashboard")
    request[IDENTITY] = identity
    return await handler(request)


async def session_has_ended(request: web.Request, identity: Identity) -> bool:
    """Tell whether a person signed out of the session, in any process; raises Transient without Postgres."""
    try:
        return await ask(request, ended.has_ended(request.app[RES].engine, identity.session))
    except Transient as exc:
        advice = "Until it is back, use a token in the header `Authorization`: sessions cannot be checked."
        raise Transient(exc.code, f"{exc.message}. {advice}") from exc


async def login_has_ended(request: web.Request, identity: Identity) -> bool:
    """Tell whether the login of a command is revoked, or over; raises Transient without Postgres."""
    return await ask(request, logins.has_ended(request.app[RES].engine, identity.login))


def check_origin(request: web.Request, *, is_browser: bool = True) -> None:
    """Raise Rejected (403) if another site caused the request, or if a browser does not tell which site did."""
    origin = request.headers.get("Origin")
    if (site := request.headers.get("Sec-Fetch-Site")) is not None:
        is_allowed = site in {"same-origin", "none"}
    elif origin is not None:
        is_allowed = is_ours(request, origin)
    else:
        is_allowed = not is_browser
    if not is_allowed:
        raise Rejected(403, "foreign_origin", "In a browser, only our own pages may do this.")


async def recognize(request: web.Request, shown: bytes) -> Role | None:
    """Return the role of a token; if it has none, log it and return None after a delay.

    Right tokens are never delayed, wrong ones only while few others are.
    """
    # Compare with all tokens, so that the duration does not tell which one matched.
    matches = [role for role, token in tokens(request).items() if hmac.compare_digest(shown, token)]
    if matches:
        return matches[0]
    refusals, now = request.app[REFUSALS], time.monotonic()
    refusals.count += 1
    if now - refusals.logged_at >= LOG_SECONDS:
        log.warning("token_refused", times=refusals.count)
        refusals.count, refusals.logged_at = 0, now
    await delay(request)
    return None


async def delay(request: web.Request) -> bool:
    """Wait for a moment, as after a wrong token; return whether too many others do already, and do not wait then."""
    refusals = request.app[REFUSALS]
    if refusals.are_many:
        return True
    refusals.waiting += 1
    try:
        await asyncio.sleep(REFUSAL_SECONDS)
    finally:
        refusals.waiting -= 1
    return False


def tokens(request: web.Request) -> Mapping[Role, bytes]:
    """Return the token of each role that has one; raises Rejected (403) if none has."""
    settings = request.app[RES].settings
    found: dict[Role, bytes] = {}
    if settings.api_token:
        found["operator"] = to_bytes(settings.api_token.get_secret_value())
    if settings.api_read_token:
        found["reader"] = to_bytes(settings.api_read_token.get_secret_value())
    if not found:
        raise Rejected(403, "api_closed", "The API is closed: set API_TOKEN to open it.")
    return found


def visible(request: web.Request, raw: Raw) -> Raw:
    """Return the parts of a webhook that the caller may see: readers see no signature."""
    return raw if request[IDENTITY].role == "operator" else raw.for_reader()


def clean_name(name: str) -> str:
    """Make a name fit for a text column and a page: one line of printable characters."""
    return printable(name.strip()[:LONGEST_NAME], "?")


def _is_open(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    if resource is None:  # no such path or method; below /api/, strangers get 401 instead of 404
        return not f"{request.path}/".startswith("/api/")
    return resource.canonical in request.app[OPEN_PATHS]


def _is_for_readers(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical in request.app[READERS_PATHS]


async def _identify(request: web.Request) -> Identity | None:
    known = tokens(request)
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            token = to_bytes(shown.strip())
            if (identity := await _login_of(request, token, known)) is not None:
                return identity
            role = await recognize(request, token)
            return role and Identity(role, clean_name(request.headers.get("X-Operator", "")), "api")
        case "basic":
            name, _, password = _decoded(shown.strip()).partition(":")
            role = await recognize(request, to_bytes(password))
            return role and Identity(role, clean_name(name), "basic")
        case _:
            session = sessions.read(request, known)
            # A holder of the token could sign any name.
            return session and replace(session, name=clean_name(session.name))


async def _login_of(request: web.Request, token: bytes, known: Mapping[Role, bytes]) -> Identity | None:
    """Return the identity of a command that signed in; raises Transient without Postgres."""
    if not token.startswith(logins.PREFIX) or len(token) > LONGEST_SECRET:
        return None
    held = await ask(request, logins.recognize(request.app[RES].engine, known, token))
    if held is None:
        return None
    name = f"{held.by}@{held.name}" if held.by else held.name
    return Identity(held.role, clean_name(name), "command line", login=held.id)


def _decoded(shown: str) -> str:
    try:
        return base64.b64decode(to_bytes(shown), validate=True).decode(errors="surrogateescape")
    except binascii.Error:
        return ""


def _challenge(request: web.Request) -> web.Response:
    """Redirect a browser to the sign-in page; answer programs with 401."""
    if request.method in _READS and wants_page(request):
        wanted = request.path_qs if len(request.path_qs) <= LONGEST_NEXT else "/"
        location = f"{SIGN_IN_PATH}?next={quote(wanted)}"
        return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})
    answer = problem(401, "unauthorized", "Send the header `Authorization: Bearer $API_TOKEN`.")
    answer.headers["WWW-Authenticate"] = "Bearer"
    add_help(request, answer, "unauthorized")
    return answer
