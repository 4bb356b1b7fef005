"""The API of logins: a command begins one and waits for a person; logins are listed and revoked."""

from datetime import datetime
from typing import Literal

from aiohttp import web
from pydantic import Field

from service.errors import Rejected
from service.operate import logins
from service.operate.logins import CODE_LIFETIME, POLL_INTERVAL
from service.queries.logins import LoginPage
from service.queries.logins import list_logins as newest_logins
from service.queries.views import View
from service.web.auth.tokens import LONGEST_NAME, LONGEST_SECRET, clean_name, delay, tokens
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import Body, answer, ask, body, number, reply
from service.web.handling.routes import Routes

routes = Routes("Logins")

PAGE = "/login"  # where a person confirms
_CLOSED = {
    403: "No API_TOKEN is set (`api_closed`).",
    429: "Too many others do the same now (`too_many_guesses`).",
    503: "Postgres cannot be reached (`database_unavailable`).",
}


class LoginRequest(Body):
    """Which machine the login is for."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME, description="For people, such as a host's name")


class LoginBegun(View):
    """What the command shows, and the secret that becomes its token."""

    secret: str = Field(description="Keep it, and show it to nobody")
    user_code: str = Field(description="The person compares it with the one that the page shows")
    page: str = Field(description="The path of the page; the query `code` fills in the code")
    expires_in: int = Field(description="Seconds until the code expires")
    interval: int = Field(description="Seconds between two polls")


class PollRequest(Body):
    """The secret of a login that was begun."""

    secret: str = Field(min_length=1, max_length=LONGEST_SECRET)


class LoginState(View):
    """Whether a person has confirmed; the rest is null until then."""

    status: Literal["waiting", "signed_in"]
    role: Literal["operator", "reader"] | None = None
    confirmed_by: str | None = None
    ends_at: datetime | None = None


class LoginRevoked(View):
    """The login is over."""

    revoked: Literal[True] = True
    login_id: int


@routes.post("/login/begin", is_open=True, body=LoginRequest, answer=LoginBegun, errors=_CLOSED)
async def begin_login(request: web.Request) -> web.Response:
    """Begin the login of a command; a person confirms its code on the dashboard."""
    tokens(request)  # raises if no token is set
    wanted = await body(request, LoginRequest)
    if await delay(request):  # anybody may write these rows
        raise Rejected(429, "too_many_guesses", "Too many logins begin; try again in a few seconds.")
    begun = await ask(request, logins.begin(request.app[RES].engine, clean_name(wanted.name) or "?"))
    times = {
        "expires_in": int(CODE_LIFETIME.total_seconds()),
        "interval": int(POLL_INTERVAL.total_seconds()),
    }
    return answer(request, LoginBegun(secret=begun.secret, user_code=begun.user_code, page=PAGE, **times))


@routes.post(
    "/login/poll",
    is_open=True,
    body=PollRequest,
    answer=LoginState,
    errors={
        403: "The person refused it (`login_refused`), or no API_TOKEN is set (`api_closed`).",
        404: "There is no such login, or its code has expired (`login_expired`).",
        429: "It asks too often (`slow_down`), or too many others do (`too_many_guesses`).",
        503: "Postgres cannot be reached (`database_unavailable`).",
    },
)
async def poll_login(request: web.Request) -> web.Response:
    """Tell whether a person has confirmed a login; from then on its secret is a token."""
    known, wanted = tokens(request), await body(request, PollRequest)
    secret = wanted.secret.encode(errors="replace")
    try:
        held = await ask(request, logins.poll(request.app[RES].engine, known, secret))
    except Rejected as exc:
        if exc.status == 404 and await delay(request):
            raise Rejected(
                429, "too_many_guesses", "Too many wrong secrets; try again in a few seconds."
            ) from None
        raise
    if held is None:
        return answer(request, LoginState(status="waiting"))
    state = LoginState(status="signed_in", role=held.role, confirmed_by=held.by, ends_at=held.ends_at)
    return answer(request, state)


@routes.get("/api/v1/logins", answer=LoginPage)
async def list_logins(request: web.Request) -> web.Response:
    """List the logins of commands, newest first."""
    return await reply(request, newest_logins(request.app[RES].engine))


@routes.post(
    "/api/v1/logins/{id}/revoke", answer=LoginRevoked, errors={409: "It is over already (`login_over`)."}
)
async def revoke_login(request: web.Request) -> web.Response:
    """Revoke the login of a command."""
    return await _revoke(request, number(request, "id"))


@routes.post(
    "/api/v1/logout",
    is_for_readers=True,
    answer=LoginRevoked,
    errors={409: "The token is not one of a login (`no_login`), or it is over already (`login_over`)."},
)
async def log_out(request: web.Request) -> web.Response:
    """Revoke the login whose token sends this request."""
    if not request[IDENTITY].login:
        raise Rejected(409, "no_login", "This token is not one of a login: nothing was revoked.")
    return await _revoke(request, request[IDENTITY].login)


async def _revoke(request: web.Request, login_id: int) -> web.Response:
    await ask(request, logins.revoke(request.app[RES].engine, login_id, request[IDENTITY].actor))
    return answer(request, LoginRevoked(login_id=login_id))
