"""The API of failures: their groups, and bulk retries."""

from typing import Literal

from aiohttp import web
from pydantic import Field

from service.operate import bulk_retry
from service.operate.acknowledge import acknowledge, unacknowledge
from service.postgres.selection import MOST_REASON, STORABLE, BulkAction, BulkTask, Selection, What
from service.queries import failures, retries
from service.queries.failures import FailurePage
from service.queries.retries import BulkRetryPage, BulkRetryView
from service.queries.views import View
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import Body, Whole, answer, ask, body, number, reply
from service.web.handling.routes import Routes

routes = Routes("Failures")


class Finished(Selection):
    """A filter of e-mails to retry; without a status it selects failed ones."""

    status: Literal["completed", "failed"] | None = Field(None, description="How the job ended")


class BulkRetryRequest(Body):
    """Which e-mails to retry or to dismiss, their jobs or only their syncs, and how fast."""

    filter: Finished
    action: BulkAction = Field(
        "retry",
        description="`dismiss`: failed e-mails need no attention any more; `undismiss`: dismissed ones need it again."
        " Unless `dismissed` is in the filter, a retry leaves dismissed e-mails out",
    )
    reason: str | None = Field(None, max_length=MOST_REASON, description="Of a dismissal, which needs one")
    what: What = Field(
        "job",
        description="Whole e-mails, or only their syncs. Syncs without a `sync_status`: failed ones, and e-mails that"
        " finished before there was a target",
    )
    per_second: Whole = Field(
        bulk_retry.PER_SECOND,
        ge=1,
        le=bulk_retry.MOST_PER_SECOND,
        description="Maximum of queued or dismissed e-mails per second",
    )
    dry_run: bool = Field(False, description="Only count the e-mails")

    @property
    def task(self) -> BulkTask:
        return BulkTask(self.action, self.what, self.reason)


class BulkRetryReceipt(View):
    """The number of matching e-mails, and the bulk retry, unless it was a dry run."""

    planned: int  # a minimum, if capped
    planned_capped: bool
    bulk_retry_id: int | None


class Cancelled(View):
    """The bulk retry queues no more e-mails."""

    status: Literal["cancelled"] = "cancelled"
    bulk_retry_id: int


@routes.get("/api/v1/failures", answer=FailurePage)
async def list_failures(request: web.Request) -> web.Response:
    """Group failures by code and host, newest first."""
    return await reply(request, failures.list_failures(request.app[RES].engine))


class GroupRequest(Body):
    """A group of failures, as `GET /api/v1/failures` names it."""

    error_code: str = Field(pattern=STORABLE, max_length=100, description="`none` without a code")
    host: str = Field(pattern=STORABLE, max_length=300, description="`none` if no host is the cause")


class AcknowledgeRequest(GroupRequest):
    """Who looks after a group of failures, in a note."""

    note: str = Field(min_length=1, max_length=MOST_REASON, description="For people")


class Acknowledged(View):
    """Whether somebody looks after the group now."""

    acknowledged: bool


@routes.post(
    "/api/v1/failures/acknowledge",
    body=AcknowledgeRequest,
    answer=Acknowledged,
    errors={409: "The note is blank (`reason_missing`)."},
)
async def acknowledge_failures(request: web.Request) -> web.Response:
    """Say that you look after a group of failures; others see it with the group."""
    wanted, actor = await body(request, AcknowledgeRequest), request[IDENTITY].actor
    group = (wanted.error_code, wanted.host)
    await ask(request, acknowledge(request.app[RES], group, actor, wanted.note))
    return answer(request, Acknowledged(acknowledged=True))


@routes.post(
    "/api/v1/failures/unacknowledge",
    body=GroupRequest,
    answer=Acknowledged,
    errors={404: "Nobody has acknowledged it (`not_acknowledged`)."},
)
async def unacknowledge_failures(request: web.Request) -> web.Response:
    """Remove the note of a group of failures."""
    wanted, actor = await body(request, GroupRequest), request[IDENTITY].actor
    await ask(request, unacknowledge(request.app[RES], (wanted.error_code, wanted.host), actor))
    return answer(request, Acknowledged(acknowledged=False))


@routes.post(
    "/api/v1/retries",
    body=BulkRetryRequest,
    answer=BulkRetryReceipt,
    status=202,
    also=(200,),
    errors={
        409: "There is no target to sync to: SYNC_URL is not set (`sync_off`). A dismissal needs a reason"
        " (`reason_missing`), and a filter of what failed (`not_failed`).",
    },
)
async def start_retry(request: web.Request) -> web.Response:
    """Retry, sync or dismiss all e-mails that match a filter; with `dry_run`, only count them."""
    wanted, res = await body(request, BulkRetryRequest), request.app[RES]
    if wanted.dry_run:
        planned = await ask(request, bulk_retry.plan(res, wanted.filter, wanted.task))
        counted = BulkRetryReceipt(
            planned=planned.number, planned_capped=planned.is_capped, bulk_retry_id=None
        )
        return answer(request, counted)
    start = bulk_retry.start(res, wanted.filter, wanted.per_second, request[IDENTITY].actor, wanted.task)
    begun = await ask(request, retries.get_retry(res.engine, await ask(request, start)))
    receipt = BulkRetryReceipt(
        planned=begun.planned, planned_capped=begun.planned_capped, bulk_retry_id=begun.id
    )
    return answer(request, receipt, status=202)


@routes.get("/api/v1/retries", answer=BulkRetryPage)
async def list_retries(request: web.Request) -> web.Response:
    """List bulk retries, newest first."""
    return await reply(request, retries.list_retries(request.app[RES].engine))


@routes.get("/api/v1/retries/{id}", answer=BulkRetryView)
async def show_retry(request: web.Request) -> web.Response:
    """Show the progress of a bulk retry."""
    return await reply(request, retries.get_retry(request.app[RES].engine, number(request, "id")))


@routes.post(
    "/api/v1/retries/{id}/cancel",
    answer=Cancelled,
    status=202,
    errors={409: "The bulk retry has ended already (`not_running`)."},
)
async def cancel_retry(request: web.Request) -> web.Response:
    """Cancel a bulk retry."""
    bulk_retry_id = number(request, "id")
    await ask(request, bulk_retry.cancel(request.app[RES], bulk_retry_id, request[IDENTITY].actor))
    return answer(request, Cancelled(bulk_retry_id=bulk_retry_id), status=202)
