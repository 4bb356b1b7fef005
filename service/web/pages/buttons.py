"""The buttons: each starts one operation and redirects to a page with its result."""

from typing import Any, get_args

from aiohttp import web
from pydantic import ConfigDict, Field, field_validator

from service.errors import Rejected
from service.operate import bulk_retry
from service.operate.retry import retry
from service.postgres.selection import MOST_REASON, BulkAction, BulkTask, Selection, What
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import ask, form, number
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import redirect, show

routes = Routes()

PER_SECOND = 20
_BEGUN = {"retry": "bulk_begun", "dismiss": "dismissal_begun", "undismiss": "undismissal_begun"}


class RetryForm(Selection):
    """The form of a bulk retry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: What = "job"
    action: BulkAction = "retry"
    reason: str | None = Field(None, max_length=MOST_REASON)
    per_second: int = Field(PER_SECOND, ge=1, le=bulk_retry.MOST_PER_SECOND)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def selection(self) -> Selection:
        return Selection.model_validate(self.model_dump(exclude={"what", "action", "reason", "per_second"}))

    @property
    def task(self) -> BulkTask:
        return BulkTask(self.action, self.what, self.reason)


@routes.post("/emails/{id}/retry")
async def retry_email(request: web.Request) -> web.Response:
    email_id = number(request, "id")
    await ask(request, retry(request.app[RES], email_id, request[IDENTITY].actor))
    return redirect(f"/emails/{email_id}", "retried")


@routes.post("/emails/{id}/sync")
async def sync_email(request: web.Request) -> web.Response:
    email_id = number(request, "id")
    await ask(request, retry(request.app[RES], email_id, request[IDENTITY].actor, "sync"))
    return redirect(f"/emails/{email_id}", "sync_begun")


@routes.get("/retries/plan")
async def plan_retry(request: web.Request) -> web.Response:
    """Show the plan of a bulk retry, before it starts."""
    query = filters.read(request)
    if query.filter is None:
        raise Rejected(400, "bad_parameter", query.error)
    selection = Selection.model_validate(query.chosen)
    task = BulkTask(one_of(request, "action", BulkAction), one_of(request, "what", What))
    count = await ask(request, bulk_retry.plan(request.app[RES], selection, task))
    # The button sends this filter: that of the plan, in the words that were typed.
    planned = filters.words_of(bulk_retry.completed(request.app[RES], selection, task))
    chosen = {**planned, **query.chosen}
    return await show(
        request,
        "plan.html",
        what=task.what,
        action=task.action,
        count=count,
        selected=len(selection.email_ids or ()),
        chosen=chosen,
        back=filters.address(chosen),
        per_second=PER_SECOND,
        most_per_second=bulk_retry.MOST_PER_SECOND,
        most_reason=MOST_REASON,
    )


@routes.post("/retries")
async def start_retry(request: web.Request) -> web.Response:
    given = await form(request, RetryForm)
    actor = request[IDENTITY].actor
    begun = bulk_retry.start(request.app[RES], given.selection, given.per_second, actor, given.task)
    await ask(request, begun)
    is_sync = (given.action, given.what) == ("retry", "sync")
    return redirect("/retries", "syncs_begun" if is_sync else _BEGUN[given.action])


@routes.post("/retries/{id}/cancel")
async def cancel_retry(request: web.Request) -> web.Response:
    await ask(request, bulk_retry.cancel(request.app[RES], number(request, "id"), request[IDENTITY].actor))
    return redirect("/retries", "bulk_cancelled")


def one_of(request: web.Request, name: str, words: Any) -> Any:  # noqa: ANN401 a Literal, and one of its words
    """Return a parameter that is one of these words, or else the first word."""
    every = get_args(words)
    return next((each for each in every if each == request.query.get(name)), every[0])
