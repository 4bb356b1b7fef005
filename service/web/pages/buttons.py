"""The buttons: each starts one operation and redirects to a page with its result."""

from typing import get_args

from aiohttp import web
from pydantic import ConfigDict, Field, field_validator

from service import intake
from service.errors import Rejected
from service.operate import bulk_retry
from service.operate.retry import retry
from service.postgres.selection import Selection, What
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import ask, form, number
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import redirect, show

routes = Routes()

PER_SECOND = 20


class RetryForm(Selection):
    """The form of a bulk retry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: What = "job"
    per_second: int = Field(PER_SECOND, ge=1, le=bulk_retry.MOST_PER_SECOND)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def selection(self) -> Selection:
        return Selection.model_validate(self.model_dump(exclude={"what", "per_second"}))


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
    what: What = next((each for each in get_args(What) if each == request.query.get("what")), "job")
    count = await ask(request, bulk_retry.plan(request.app[RES], selection, what))
    default = {"sync_status": "unsynced"} if what == "sync" else {"status": "failed"}
    chosen = {**default, **query.chosen}
    return await show(
        request,
        "plan.html",
        what=what,
        count=count,
        chosen=chosen,
        back=filters.address(chosen),
        per_second=PER_SECOND,
        most_per_second=bulk_retry.MOST_PER_SECOND,
    )


@routes.post("/retries")
async def start_retry(request: web.Request) -> web.Response:
    given = await form(request, RetryForm)
    actor = request[IDENTITY].actor
    begun = bulk_retry.start(request.app[RES], given.selection, given.per_second, actor, given.what)
    await ask(request, begun)
    return redirect("/retries", "syncs_begun" if given.what == "sync" else "bulk_begun")


@routes.post("/retries/{id}/cancel")
async def cancel_retry(request: web.Request) -> web.Response:
    await ask(request, bulk_retry.cancel(request.app[RES], number(request, "id"), request[IDENTITY].actor))
    return redirect("/retries", "bulk_cancelled")


@routes.post("/quarantine/{id}/replay")
async def replay(request: web.Request) -> web.Response:
    quarantine_id = number(request, "id")
    receipt = await ask(request, intake.replay(request.app[RES], quarantine_id, request[IDENTITY].actor))
    if receipt.status == "ignored":
        return redirect(f"/quarantine/{quarantine_id}", "ignored")
    return redirect(
        f"/emails/{receipt.number}", "replayed" if receipt.status == "accepted" else "replayed_before"
    )
