"""The API of the quarantine and of ignored events: lists, originals, replay."""

from typing import Literal

from aiohttp import web

from service import intake
from service.queries import webhooks
from service.queries.views import IgnoredDetail, IgnoredPage, QuarantineDetail, QuarantinePage, View
from service.queries.webhooks import IgnoredFilter, QuarantineFilter
from service.web.auth.tokens import visible
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import answer, ask, number, parameters, reply
from service.web.handling.routes import Routes

routes = Routes("Quarantine")


class Replayed(View):
    """The e-mail of the replayed request; `duplicate` if it existed before."""

    status: Literal["accepted", "duplicate"]
    email_id: int | None


@routes.get("/api/v1/quarantine", query=QuarantineFilter, answer=QuarantinePage)
async def list_quarantined(request: web.Request) -> web.Response:
    """List requests that could not be parsed, newest first."""
    wanted = parameters(request, QuarantineFilter)
    return await reply(request, webhooks.list_quarantined(request.app[RES].engine, wanted))


@routes.get("/api/v1/quarantine/{id}", answer=QuarantineDetail)
async def show_quarantined(request: web.Request) -> web.Response:
    """Show an original request in quarantine."""
    quarantine_id = number(request, "id")
    found = await ask(request, webhooks.get_quarantined(request.app[RES].engine, quarantine_id))
    return answer(request, visible(request, found))


@routes.post(
    "/api/v1/quarantine/{id}/replay",
    answer=Replayed,
    status=202,
    errors={409: "The request still cannot be parsed; the `code` says why."},
)
async def replay(request: web.Request) -> web.Response:
    """Replay a request that can be parsed now."""
    return await _replay(request, "quarantined")


@routes.get("/api/v1/ignored", query=IgnoredFilter, answer=IgnoredPage)
async def list_ignored(request: web.Request) -> web.Response:
    """List events of unused types, newest first."""
    wanted = parameters(request, IgnoredFilter)
    return await reply(request, webhooks.list_ignored(request.app[RES].engine, wanted))


@routes.get("/api/v1/ignored/{id}", answer=IgnoredDetail)
async def show_ignored(request: web.Request) -> web.Response:
    """Show an original event of an unused type."""
    return await reply(request, webhooks.get_ignored(request.app[RES].engine, number(request, "id")))


@routes.post(
    "/api/v1/ignored/{id}/replay",
    answer=Replayed,
    status=202,
    errors={409: "The event still is no e-mail; the `code` says why."},
)
async def replay_ignored(request: web.Request) -> web.Response:
    """Replay an event whose type is used now."""
    return await _replay(request, "ignored")


async def _replay(request: web.Request, what: Literal["quarantined", "ignored"]) -> web.Response:
    actor = request[IDENTITY].actor
    receipt = await ask(request, intake.replay(request.app[RES], number(request, "id"), actor, what))
    return answer(request, Replayed(status=receipt.status, email_id=receipt.number), status=202)
