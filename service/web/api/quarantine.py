"""The API of the quarantine and of ignored events: lists, originals, replay, dismissal."""

from typing import Literal

from aiohttp import web

from service import intake
from service.operate import dismiss
from service.queries import webhooks
from service.queries.views import IgnoredDetail, IgnoredPage, QuarantineDetail, QuarantinePage, View
from service.queries.webhooks import IgnoredFilter, QuarantineFilter
from service.web.auth.tokens import visible
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import DismissRequest, answer, ask, body, number, parameters, reply
from service.web.handling.routes import Routes

routes = Routes("Quarantine")


class Replayed(View):
    """The e-mail of the replayed request; `duplicate` if it existed before.

    `erased`: its e-mail was erased, and so the request is deleted.
    """

    status: Literal["accepted", "duplicate", "erased"]
    email_id: int | None


class WebhookDismissed(View):
    """The request in quarantine is dismissed."""

    dismissed: Literal[True] = True
    quarantine_id: int


class WebhookUndismissed(View):
    """The request in quarantine is not dismissed any more."""

    dismissed: Literal[False] = False
    quarantine_id: int


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
    errors={409: "The request still cannot be parsed; the `code` says why, such as `not_json`."},
)
async def replay(request: web.Request) -> web.Response:
    """Replay a request that can be parsed now."""
    return await _replay(request, "quarantined")


@routes.post(
    "/api/v1/quarantine/{id}/dismiss",
    body=DismissRequest,
    answer=WebhookDismissed,
    errors={
        409: "It was replayed (`already_replayed`), it is dismissed (`already_dismissed`), or the reason is blank (`reason_missing`).",
    },
)
async def dismiss_webhook(request: web.Request) -> web.Response:
    """Dismiss a request in quarantine: it needs no attention any more, and can still be replayed."""
    wanted, webhook_id = await body(request, DismissRequest), number(request, "id")
    actor = request[IDENTITY].actor
    await ask(request, dismiss.dismiss_webhook(request.app[RES], webhook_id, actor, wanted.reason))
    return answer(request, WebhookDismissed(quarantine_id=webhook_id))


@routes.post(
    "/api/v1/quarantine/{id}/undismiss",
    answer=WebhookUndismissed,
    errors={409: "It is not dismissed (`not_dismissed`)."},
)
async def undismiss_webhook(request: web.Request) -> web.Response:
    """End the dismissal of a request in quarantine."""
    webhook_id = number(request, "id")
    await ask(request, dismiss.undismiss_webhook(request.app[RES], webhook_id, request[IDENTITY].actor))
    return answer(request, WebhookUndismissed(quarantine_id=webhook_id))


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
    errors={409: "The event still is no e-mail; the `code` says why, such as `event_not_used`."},
)
async def replay_ignored(request: web.Request) -> web.Response:
    """Replay an event whose type is used now."""
    return await _replay(request, "ignored")


async def _replay(request: web.Request, what: Literal["quarantined", "ignored"]) -> web.Response:
    actor = request[IDENTITY].actor
    receipt = await ask(request, intake.replay(request.app[RES], number(request, "id"), actor, what))
    return answer(request, Replayed(status=receipt.status, email_id=receipt.number), status=202)
