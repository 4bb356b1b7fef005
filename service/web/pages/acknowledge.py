"""The form that says who looks after a group of failures: a page of its own, as a live page would reset it."""

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from service.operate.acknowledge import acknowledge, unacknowledge
from service.postgres.selection import MOST_REASON, STORABLE
from service.queries.failures import list_failures
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.remedies import remedy_on
from service.web.handling.requests import ask, form
from service.web.handling.routes import Routes
from service.web.pages.filters import parameters
from service.web.pages.frame import redirect, show

routes = Routes()


class GroupForm(BaseModel):
    """The code and the host of a group of failures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error_code: str = Field("none", pattern=STORABLE, max_length=100)
    host: str = Field("none", pattern=STORABLE, max_length=300)


class NoteForm(GroupForm):
    """The form of an acknowledgement."""

    note: str = Field(max_length=MOST_REASON)


@routes.get("/failures/acknowledge")
async def ask_for_note(request: web.Request) -> web.Response:
    wanted = parameters(request, GroupForm)
    page = await ask(request, list_failures(request.app[RES].engine))
    key = (wanted.error_code, wanted.host)
    found = next((each for each in page.failures if (each.error_code, each.host) == key), None)
    return await show(
        request,
        "acknowledge.html",
        wanted=wanted,
        known=found and found.acknowledgement,
        remedy=remedy_on(wanted.error_code),
        most=MOST_REASON,
    )


@routes.post("/failures/acknowledge")
async def store_note(request: web.Request) -> web.Response:
    given, actor = await form(request, NoteForm), request[IDENTITY].actor
    await ask(request, acknowledge(request.app[RES], (given.error_code, given.host), actor, given.note))
    return redirect("/failures", "acknowledged")


@routes.post("/failures/unacknowledge")
async def remove_note(request: web.Request) -> web.Response:
    given, actor = await form(request, GroupForm), request[IDENTITY].actor
    await ask(request, unacknowledge(request.app[RES], (given.error_code, given.host), actor))
    return redirect("/failures", "unacknowledged")
