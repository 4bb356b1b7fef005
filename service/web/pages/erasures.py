"""The pages of erasures: the list, the plan of a new one, and its button."""

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from service.custody import erasure
from service.custody.scopes import Scope, ScopeKind, scope_of
from service.postgres.selection import MOST_REASON, MOST_SENDER
from service.queries.erasures import get_erasure, list_erasures, plan_view
from service.queries.pages import PageFilter
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import ask, form, number
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import redirect, show

routes = Routes()

# The names of the scopes in sentences.
KINDS: dict[str, str] = {
    "sender": "all e-mails of the sender",
    "ticket": "all e-mails of ticket",
    "email": "e-mail",
    "file": "the file with the SHA-256",
    "zendesk": "all e-mails that Zendesk has",
    "restored": "what was erased before a restore",
}


class ScopeForm(BaseModel):
    """The form of a plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ScopeKind
    subject: str = Field(max_length=MOST_SENDER)

    @property
    def scope(self) -> Scope:
        return scope_of({self.kind: self.subject})


class ErasureForm(ScopeForm):
    """The form of an erasure: the scope of the plan, and a reason."""

    reason: str = Field(max_length=MOST_REASON)


@routes.get("/erasures")
async def list_all(request: web.Request) -> web.Response:
    cursor = request.query.get("cursor")
    page = await ask(request, list_erasures(request.app[RES].engine, PageFilter(cursor=cursor)))
    onward = page.next_cursor and filters.address({"cursor": page.next_cursor}, "/erasures")
    return await show(request, "erasures.html", page=page, onward=onward, kinds=KINDS, most=MOST_SENDER)


@routes.post("/erasures/plan")
async def show_plan(request: web.Request) -> web.Response:
    """Show what an erasure would delete. A form posts it: an address would keep whom it is about."""
    wanted = await form(request, ScopeForm)
    planned = await ask(request, erasure.plan(request.app[RES], wanted.scope))
    return await show(
        request,
        "erasure_plan.html",
        plan=plan_view(planned),
        scope=wanted.scope,
        name=KINDS[wanted.kind],
        is_empty=planned.is_empty,
        most=MOST_REASON,
    )


@routes.post("/erasures")
async def erase(request: web.Request) -> web.Response:
    wanted = await form(request, ErasureForm)
    begun = erasure.start(request.app[RES], wanted.scope, wanted.reason, request[IDENTITY].actor)
    return redirect(f"/erasures/{await ask(request, begun)}", "erasure_begun")


@routes.get("/erasures/{id}")
async def show_one(request: web.Request) -> web.Response:
    found = await ask(request, get_erasure(request.app[RES].engine, number(request, "id")))
    return await show(request, "erasure.html", erasure=found, name=KINDS[found.scope])
