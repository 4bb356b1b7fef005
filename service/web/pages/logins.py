"""The pages of logins: a person confirms the code of a command; a list of all, to revoke them."""

from typing import Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from service.errors import Rejected
from service.operate import logins
from service.operate.logins import DAYS, MOST_DAYS, Confirmation
from service.queries.logins import list_logins
from service.web.auth.tokens import delay, tokens
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import ask, form, number
from service.web.handling.routes import Routes
from service.web.pages.frame import redirect, show

routes = Routes()

CHOICES = (1, 7, 30, DAYS, 365)  # days
MOST_CODE = 100  # characters typed for a code
_UNKNOWN = "No command waits with this code. It is used, or older than 10 minutes: run the command again."


class Answer(BaseModel):
    """The form of a confirmation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str = Field(max_length=MOST_CODE)
    days: int = Field(DAYS, ge=1, le=MOST_DAYS)
    answer: Literal["confirm", "refuse"]


@routes.get("/login")
async def ask_for_code(request: web.Request) -> web.Response:
    """Ask for the code, or show what waits with it."""
    code = request.query.get("code", "").strip()[:MOST_CODE]
    if not code:
        return await _page(request)
    waiting = await ask(request, logins.find_waiting(request.app[RES].engine, code))
    if waiting is None:
        return await _unknown(request, code)
    letters = logins.as_typed(code)
    return await _page(request, code=f"{letters[:4]}-{letters[4:]}", waiting=waiting)


@routes.post("/login", is_for_readers=True)
async def answer_login(request: web.Request) -> web.Response:
    """Confirm or refuse the command that waits with a code, with the rights of this person."""
    given, identity, engine = await form(request, Answer), request[IDENTITY], request.app[RES].engine
    if identity.via not in {"dashboard", "basic"}:  # a token would outlive its own end
        raise Rejected(403, "person_needed", "Only a person in a browser can confirm a login.")
    if given.answer == "refuse":
        name = await ask(request, logins.refuse(engine, given.code, identity.actor))
        return await (_unknown(request, given.code) if name is None else _page(request, refused=name))
    confirmation = Confirmation(
        identity.name, identity.role, tokens(request)[identity.role], min(given.days, MOST_DAYS)
    )
    name = await ask(request, logins.confirm(engine, given.code, confirmation, identity.actor))
    return await (_unknown(request, given.code) if name is None else _page(request, confirmed=name))


@routes.get("/logins")
async def list_all(request: web.Request) -> web.Response:
    page = await ask(request, list_logins(request.app[RES].engine))
    return await show(request, "logins.html", page=page)


@routes.post("/logins/{id}/revoke")
async def revoke(request: web.Request) -> web.Response:
    login_id = number(request, "id")
    await ask(request, logins.revoke(request.app[RES].engine, login_id, request[IDENTITY].actor))
    return redirect("/logins", "login_revoked")


async def _unknown(request: web.Request, code: str) -> web.Response:
    """Refuse a wrong code as slowly as a wrong token."""
    if await delay(request):
        raise Rejected(429, "too_many_guesses", "Too many wrong codes; try again in a few seconds.")
    return await _page(request, status=404, code=code, error=_UNKNOWN)


async def _page(request: web.Request, status: int = 200, **values: object) -> web.Response:
    known = {"code": "", "waiting": None, "confirmed": None, "refused": None, "error": ""}
    days = {"choices": CHOICES, "chosen": DAYS}
    return await show(request, "login.html", status=status, **{**known, **days, **values})
