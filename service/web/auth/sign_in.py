"""Sign in with a token and a name for the list of actions; sign out."""

import re

from aiohttp import web
from pydantic import BaseModel

from service.errors import Rejected, Transient
from service.operate.sessions import end
from service.web.auth import sessions
from service.web.auth.tokens import REFUSALS, check_origin, clean_name, recognize, tokens
from service.web.handling.keys import RES, Identity
from service.web.handling.rendering import render
from service.web.handling.requests import ask, form
from service.web.handling.routes import Routes

routes = Routes()

# Anybody may send this form, and it is read into memory.
MOST_FORM_BYTES = 8 * 1024
# A path on this host: `//host` and `/\host` lead to other hosts.
_LOCAL = re.compile(r"/(?!/)[!-\[\]-~]{0,2000}")


class SignIn(BaseModel):
    """The fields of the form."""

    name: str = ""
    token: str = ""
    next: str = "/"


@routes.get("/sign-in", is_open=True)
async def page(request: web.Request) -> web.Response:
    tokens(request)  # raises if no token is set: then the page shows that instead of the form
    return await _form(request, SignIn(next=request.query.get("next", "/")))


@routes.post("/sign-in", is_open=True)
async def sign_in(request: web.Request) -> web.Response:
    """Begin a session and redirect to the requested page; refuse forms of other sites."""
    check_origin(request)
    given = await form(request, SignIn, MOST_FORM_BYTES)
    token = given.token.strip().encode(errors="replace")
    role = await recognize(request, token)
    if role is None and request.app[REFUSALS].are_many:
        raise Rejected(429, "too_many_guesses", "Too many wrong tokens; try again in a few seconds.")
    if role is None:
        return await _form(request, given, status=403, error="Token not recognised.")
    answer = _redirect(_local(given.next))
    sessions.begin(request, answer, Identity(role, clean_name(given.name), "dashboard"), token)
    return answer


@routes.post("/sign-out", is_open=True)
async def sign_out(request: web.Request) -> web.Response:
    """End the session in all web processes, also for copies of its cookie."""
    check_origin(request)
    identity = sessions.read(request, tokens(request))
    if identity is not None:
        try:
            await ask(request, end(request.app[RES].engine, identity.session))
        except Transient as exc:
            raise Transient(exc.code, f"You are still signed in; try again later. {exc.message}") from exc
    answer = _redirect("/sign-in")
    sessions.end(request, answer)
    return answer


async def _form(request: web.Request, given: SignIn, *, status: int = 200, error: str = "") -> web.Response:
    shown = {"name": clean_name(given.name), "next": _local(given.next)}
    return await render(request, "sign_in.html", status=status, error=error, **shown)


def _local(path: str) -> str:
    return path if _LOCAL.fullmatch(path) else "/"


def _redirect(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path, "Cache-Control": "no-store"})
