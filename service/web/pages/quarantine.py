"""The pages of the quarantine: lists, a webhook with the place of its mistake, its correction, and bulk actions."""

import asyncio
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.errors import Rejected
from service.intake import IntakeResult
from service.operate import bulk_webhooks
from service.operate.correct import correct
from service.operate.replay import replay_webhook
from service.postgres.selection import MOST_REASON, WebhookAction, WebhookSelection, WebhookTask
from service.queries import webhooks
from service.queries.webhook_views import QuarantineDetail
from service.queries.webhooks import QuarantineFilter
from service.web.auth.tokens import visible
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.remedies import remedy_on
from service.web.handling.requests import ask, form, number
from service.web.handling.routes import Routes
from service.web.pages import filters, remedies
from service.web.pages.buttons import one_of
from service.web.pages.excerpts import MOST_BODY_TEXT, readable, shortened
from service.web.pages.frame import redirect, show
from service.zendesk.mistakes import mistake_in

routes = Routes()

_BEGUN = {"replay": "replays_begun", "dismiss": "dismissal_begun", "undismiss": "undismissal_begun"}
_FIELDS = tuple(WebhookSelection.model_fields)


class EditForm(BaseModel):
    """The form of a correction."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: str


class BulkForm(WebhookSelection):
    """The form of a bulk action."""

    action: WebhookAction
    reason: str | None = Field(None, max_length=MOST_REASON)
    per_second: int = Field(bulk_webhooks.PER_SECOND, ge=1, le=bulk_webhooks.MOST_PER_SECOND)

    @field_validator("reason", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @property
    def selection(self) -> WebhookSelection:
        return WebhookSelection.model_validate(self.model_dump(include={*_FIELDS}))


@routes.get("/quarantine")
async def list_quarantined(request: web.Request) -> web.Response:
    wanted = filters.parameters(request, QuarantineFilter)
    page = await ask(request, webhooks.list_quarantined(request.app[RES].engine, wanted))
    onward = filters.onward(request, page.next_cursor)
    chosen = _words(wanted)
    return await show(
        request,
        "quarantine.html",
        page=page,
        wanted=wanted,
        onward=onward,
        chosen=chosen,
        plans={
            action: filters.address({"action": action, **chosen}, "/quarantine/plan")
            for action in ("replay", "dismiss", "undismiss")
        },
    )


@routes.get("/quarantine/plan")
async def plan_bulk(request: web.Request) -> web.Response:
    """Show the plan of a bulk action, before it starts."""
    wanted = filters.parameters(request, WebhookSelection)
    task = WebhookTask(one_of(request, "action", WebhookAction))
    count = await ask(request, bulk_webhooks.plan(request.app[RES], wanted, task))
    return await show(
        request,
        "quarantine_plan.html",
        action=task.action,
        count=count,
        chosen=_words(wanted),
        back=filters.address(_words(wanted), "/quarantine"),
        per_second=bulk_webhooks.PER_SECOND,
        most_per_second=bulk_webhooks.MOST_PER_SECOND,
        most_reason=MOST_REASON,
    )


@routes.post("/quarantine/actions")
async def start_bulk(request: web.Request) -> web.Response:
    given, actor = await form(request, BulkForm), request[IDENTITY].actor
    task = WebhookTask(given.action, given.reason)
    begun = bulk_webhooks.start(request.app[RES], given.selection, given.per_second, actor, task)
    return redirect(f"/retries/{await ask(request, begun)}", _BEGUN[given.action])


@routes.get("/quarantine/{id}")
async def show_quarantined(request: web.Request) -> web.Response:
    found = await _find(request)
    raw = await asyncio.to_thread(readable, visible(request, found))
    return await show(
        request,
        "quarantined.html",
        webhook=_without_body(found),
        raw=raw,
        remedy=remedy_on(found.error_code),
        triggers_url=remedies.triggers_url(request.app[RES].account),
    )


@routes.post("/quarantine/{id}/replay")
async def replay(request: web.Request) -> web.Response:
    quarantine_id = number(request, "id")
    result = await ask(request, replay_webhook(request.app[RES], quarantine_id, request[IDENTITY].actor))
    return _made(quarantine_id, result, "replayed")


@routes.get("/quarantine/{id}/edit")
async def edit(request: web.Request) -> web.Response:
    found = await _find(request)
    return await _show_editor(request, found, found.body)


@routes.post("/quarantine/{id}/edit")
async def replay_edited(request: web.Request) -> web.Response:
    """Replay with the edited body, or show what is still wrong in it."""
    quarantine_id, res = number(request, "id"), request.app[RES]
    # In a form, a byte may become three.
    given = await form(request, EditForm, 3 * res.settings.max_webhook_bytes + 100)
    found = await _find(request)
    body = _lines(given.body, found.body)
    try:
        made = correct(res, quarantine_id, request[IDENTITY].actor, body.encode(errors="replace"))
        return _made(quarantine_id, await ask(request, made), "corrected")
    except Rejected as exc:
        if exc.status != 409:
            raise
        return await _show_editor(request, found, body, exc)


async def _find(request: web.Request) -> QuarantineDetail:
    return await ask(request, webhooks.get_quarantined(request.app[RES].engine, number(request, "id")))


async def _show_editor(
    request: web.Request, found: QuarantineDetail, body: str, error: Rejected | None = None
) -> web.Response:
    """Show the form with a body, and with the place of its mistake."""
    return await show(
        request,
        "quarantine_edit.html",
        status=error.status if error else 200,
        webhook=_without_body(found),
        body=body,
        is_too_long=len(body) > MOST_BODY_TEXT,
        is_damaged="\ufffd" in body,
        mistake=await asyncio.to_thread(mistake_in, body.encode(errors="replace")),
        error=error and error.message,
    )


def _without_body(found: QuarantineDetail) -> QuarantineDetail:
    return shortened(found.model_copy(update={"body": "", "body_base64": ""}))


def _lines(edited: str, original: str) -> str:
    """Return an edited body with the line breaks of the original: a browser sends CRLF for each."""
    return edited if "\r\n" in original else edited.replace("\r\n", "\n")


def _made(quarantine_id: int, result: IntakeResult, notice: Literal["replayed", "corrected"]) -> web.Response:
    """Redirect to the e-mail that a replay made or found."""
    if result.status == "ignored":
        return redirect(f"/quarantine/{quarantine_id}", "ignored")
    if result.status == "erased":
        return redirect("/quarantine", "erased")
    return redirect(f"/emails/{result.number}", notice if result.status == "accepted" else "replayed_before")


def _words(wanted: WebhookSelection) -> dict[str, Any]:
    """Return the fields of a filter as an address has them."""
    selection = WebhookSelection.model_validate(wanted.model_dump(include={*_FIELDS}))
    return filters.words_of(selection)
