"""The API of the quarantine and of ignored events: lists, originals, replay, dismissal."""

from typing import Literal

from aiohttp import web
from pydantic import Field

from service.intake import IntakeResult
from service.operate import bulk_webhooks, dismiss
from service.operate.correct import correct
from service.operate.replay import replay_webhook
from service.postgres.selection import MOST_REASON, WebhookAction, WebhookSelection, WebhookTask
from service.queries import retries, webhooks
from service.queries.views import View
from service.queries.webhook_views import IgnoredDetail, IgnoredPage, QuarantineDetail, QuarantinePage
from service.queries.webhooks import IgnoredFilter, QuarantineFilter
from service.web.api.failures import BulkRetryReceipt
from service.web.auth.tokens import visible
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import (
    Body,
    DismissRequest,
    Whole,
    answer,
    ask,
    body,
    number,
    parameters,
    reply,
)
from service.web.handling.routes import Routes

routes = Routes("Quarantine")


class Replayed(View):
    """The e-mail of the replayed request; `duplicate` if it existed before.

    `erased`: its e-mail was erased, and so the request is deleted.
    """

    status: Literal["accepted", "duplicate", "erased"]
    email_id: int | None


class CorrectRequest(Body):
    """The body that takes the place of the one that could not be parsed."""

    body: str = Field(description="The corrected body; the original stays on record")


class BulkWebhookRequest(Body):
    """Which requests in quarantine to replay or to dismiss, and how fast."""

    filter: WebhookSelection
    action: WebhookAction
    reason: str | None = Field(None, max_length=MOST_REASON, description="Of a dismissal, which needs one")
    per_second: Whole = Field(
        bulk_webhooks.PER_SECOND,
        ge=1,
        le=bulk_webhooks.MOST_PER_SECOND,
        description="Maximum of requests per second",
    )
    dry_run: bool = Field(False, description="Only count the requests")


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
    "/api/v1/quarantine/{id}/correct",
    body=CorrectRequest,
    answer=Replayed,
    status=202,
    errors={
        409: "The corrected body cannot be parsed either; the `code` says why. Or the request was replayed"
        " (`already_replayed`), or another correction is accepted (`already_corrected`).",
    },
)
async def correct_webhook(request: web.Request) -> web.Response:
    """Replay a request with a corrected body; the original stays on record, with who corrected it."""
    webhook_id, res = number(request, "id"), request.app[RES]
    # In JSON, a byte may become six.
    wanted = await body(request, CorrectRequest, 6 * res.settings.max_webhook_bytes + 100)
    made = correct(res, webhook_id, request[IDENTITY].actor, wanted.body.encode())
    return _replayed(request, await ask(request, made))


@routes.post(
    "/api/v1/quarantine-actions",
    body=BulkWebhookRequest,
    answer=BulkRetryReceipt,
    status=202,
    also=(200,),
    errors={
        409: "A dismissal needs a reason (`reason_missing`); replayed requests can be neither replayed nor dismissed"
        " (`already_replayed`).",
    },
)
async def start_webhook_action(request: web.Request) -> web.Response:
    """Replay or dismiss all requests in quarantine that match a filter; with `dry_run`, only count them."""
    wanted, res = await body(request, BulkWebhookRequest), request.app[RES]
    task = WebhookTask(wanted.action, wanted.reason)
    if wanted.dry_run:
        planned = await ask(request, bulk_webhooks.plan(res, wanted.filter, task))
        counted = BulkRetryReceipt(
            planned=planned.number, planned_capped=planned.is_capped, bulk_retry_id=None
        )
        return answer(request, counted)
    start = bulk_webhooks.start(res, wanted.filter, wanted.per_second, request[IDENTITY].actor, task)
    begun = await ask(request, retries.get_retry(res.engine, await ask(request, start)))
    receipt = BulkRetryReceipt(
        planned=begun.planned, planned_capped=begun.planned_capped, bulk_retry_id=begun.id
    )
    return answer(request, receipt, status=202)


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
    receipt = await ask(request, replay_webhook(request.app[RES], number(request, "id"), actor, what))
    return _replayed(request, receipt)


def _replayed(request: web.Request, receipt: IntakeResult) -> web.Response:
    return answer(request, Replayed(status=receipt.status, email_id=receipt.number), status=202)
