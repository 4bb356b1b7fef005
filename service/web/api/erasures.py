"""The API of erasures: plan, begin, list and show."""

from collections.abc import Mapping
from typing import Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from service.custody import erasure
from service.custody.scopes import scope_of
from service.postgres.selection import ADDRESS_FORM, MOST_REASON, MOST_SENDER, MOST_TICKET, TICKET_FORM
from service.queries.erasures import (
    ErasurePage,
    ErasurePlanView,
    ErasureView,
    get_erasure,
    list_erasures,
    plan_view,
)
from service.queries.pages import PageFilter
from service.queries.views import View
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import Body, Whole, answer, ask, body, number, parameters, reply
from service.web.handling.routes import Routes

routes = Routes("Erasures")


_HASH = "^[0-9a-f]{64}$"
_SCOPES: Mapping[str, Mapping[str, object]] = {
    "sender": {"type": "string", "pattern": ADDRESS_FORM, "maxLength": MOST_SENDER},
    "ticket": {"type": "string", "pattern": TICKET_FORM, "maxLength": MOST_TICKET},
    "email": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
    "file": {"type": "string", "pattern": _HASH},
    "zendesk": {"type": "string", "const": "deleted"},
}
# One of them, and no other.
_EXACTLY_ONE = [
    {"required": [name], "properties": {**{each: {"type": "null"} for each in _SCOPES}, name: scope}}
    for name, scope in _SCOPES.items()
]


class ErasureRequest(Body):
    """What to erase: exactly one of sender, ticket, email, file and zendesk."""

    # Below `allOf`, generators of clients keep the other fields: of a bare `oneOf` they make five models without them.
    model_config = ConfigDict(json_schema_extra={"allOf": [{"oneOf": _EXACTLY_ONE}]})  # type: ignore[dict-item] # nested JSON

    sender: str | None = Field(None, max_length=MOST_SENDER, description="The address; case does not matter")
    ticket: str | None = Field(None, max_length=MOST_TICKET, description="The ticket's number")
    email: Whole | None = Field(None, ge=1, le=2**63 - 1, description="The id of an e-mail")
    file: str | None = Field(None, pattern=_HASH, description="The SHA-256 of a file's content")
    zendesk: Literal["deleted"] | None = Field(
        None, description="All that Zendesk deleted for good, or at least 30 days ago"
    )
    reason: str | None = Field(
        None,
        max_length=MOST_REASON,
        description="Why; needed unless it is a dry run. It stays on the receipt",
    )
    dry_run: bool = Field(False, description="Only count what would be deleted")


class ErasureAnswer(View):
    """The erasure that began; or of a dry run, what would be deleted."""

    erasure_id: int | None
    plan: ErasurePlanView | None


@routes.post(
    "/api/v1/erasures",
    body=ErasureRequest,
    answer=ErasureAnswer,
    status=202,
    also=(200,),
    errors={
        404: "Nothing on record is in this scope (`nothing_to_erase`).",
        409: "A hold covers a part of it (`held`), or the reason is blank (`reason_missing`).",
        422: "Not exactly one scope is given, or it has a wrong form (`erasure_scope`).",
    },
)
async def erase(request: web.Request) -> web.Response:
    """Erase all of a sender or a ticket, an e-mail, or a file; the answer to a dry run is 200."""
    wanted, res = await body(request, ErasureRequest), request.app[RES]
    scope = scope_of(wanted.model_dump(include=set(_SCOPES)))
    if wanted.dry_run:
        planned = await ask(request, erasure.plan(res, scope))
        return answer(request, ErasureAnswer(erasure_id=None, plan=plan_view(planned)))
    begun = erasure.start(res, scope, wanted.reason or "", request[IDENTITY].actor)
    return answer(request, ErasureAnswer(erasure_id=await ask(request, begun), plan=None), status=202)


@routes.get("/api/v1/erasures", query=PageFilter, answer=ErasurePage)
async def list_all(request: web.Request) -> web.Response:
    """List erasures, newest first."""
    return await reply(request, list_erasures(request.app[RES].engine, parameters(request, PageFilter)))


@routes.get("/api/v1/erasures/{id}", answer=ErasureView)
async def show_erasure(request: web.Request) -> web.Response:
    """Show what an erasure deleted, or how far it is."""
    return await reply(request, get_erasure(request.app[RES].engine, number(request, "id")))
