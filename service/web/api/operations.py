"""The API of operating: an overview, groups of failures, retries of many, who did what, and who holds a content."""

import re
from collections.abc import Sequence
from typing import Literal

from aiohttp import web
from pydantic import Field

from service.errors import Rejected
from service.operate import bulk_retry
from service.postgres.selection import Selection, What
from service.queries import actions, alerts, emails, failures, overview, retries
from service.queries.pages import PageFilter
from service.queries.views import View
from service.web.handling.exchange import Body, Whole, answer, ask, body, number, parameters
from service.web.handling.keys import IDENTITY, RES
from service.web.pages.live import LIVE

_SHA256 = re.compile("[0-9a-f]{64}")


class Finished(Selection):
    """Which e-mails to run again: those that match all that is given; without a status it is those that failed."""

    status: Literal["completed", "failed"] | None = Field(None, description="How its job ended")


class BulkRetryRequest(Body):
    """Which e-mails to run again, what of them, and how fast."""

    filter: Finished
    what: What = Field(
        "job",
        description="The e-mail as a whole, or only its sync: without a `sync_status`, of what could not be synced and"
        " of what finished before there was a target",
    )
    per_second: Whole = Field(
        bulk_retry.PER_SECOND,
        ge=1,
        le=bulk_retry.MOST_PER_SECOND,
        description="E-mails queued in a second, at most",
    )
    dry_run: bool = Field(False, description="Only count them")


class BulkRetryReceipt(View):
    """How many match, and the retry that began, unless they were only to be counted."""

    planned: int  # at least so many, where it is capped
    planned_capped: bool
    bulk_retry_id: int | None


class CheckView(View):
    """Something that Holdfast stands on."""

    name: str
    ok: bool | None  # none where it works but not as it should, or is not known yet
    found: str
    advice: str  # what to do


class CheckPage(View):
    """All that Holdfast stands on, and where it syncs to, as it was some seconds ago; Zendesk's credentials, some minutes."""

    checks: Sequence[CheckView]


class Cancelled(View):
    """No more of it will be queued."""

    status: Literal["cancelled"] = "cancelled"
    bulk_retry_id: int


async def show_overview(request: web.Request) -> web.Response:
    res = request.app[RES]
    return answer(request, await ask(request, overview.summarize(res.engine, res.settings)))


async def show_checks(request: web.Request) -> web.Response:
    lights = await request.app[LIVE].lights()
    return answer(request, CheckPage(checks=[CheckView.model_validate(light) for light in lights]))


async def list_alerts(request: web.Request) -> web.Response:
    return answer(request, await ask(request, alerts.list_alerts(request.app[RES].engine)))


async def list_failures(request: web.Request) -> web.Response:
    return answer(request, await ask(request, failures.list_failures(request.app[RES].engine)))


async def start_retry(request: web.Request) -> web.Response:
    wanted, res = await body(request, BulkRetryRequest), request.app[RES]
    if wanted.dry_run:
        planned = await ask(request, bulk_retry.plan(res, wanted.filter, wanted.what))
        return answer(request, _receipt(planned.number, planned.is_capped, None))
    begun = bulk_retry.start(res, wanted.filter, wanted.per_second, request[IDENTITY].actor, wanted.what)
    one = await ask(request, retries.get_retry(res.engine, await ask(request, begun)))
    return answer(request, _receipt(one.planned, one.planned_capped, one.id), status=202)


async def list_retries(request: web.Request) -> web.Response:
    return answer(request, await ask(request, retries.list_retries(request.app[RES].engine)))


async def show_retry(request: web.Request) -> web.Response:
    return answer(
        request, await ask(request, retries.get_retry(request.app[RES].engine, number(request, "id")))
    )


async def cancel_retry(request: web.Request) -> web.Response:
    bulk_retry_id = number(request, "id")
    await ask(request, bulk_retry.cancel(request.app[RES], bulk_retry_id, request[IDENTITY].actor))
    return answer(request, Cancelled(bulk_retry_id=bulk_retry_id), status=202)


async def list_actions(request: web.Request) -> web.Response:
    wanted = parameters(request, PageFilter)
    return answer(request, await ask(request, actions.list_actions(request.app[RES].engine, wanted)))


async def list_holders(request: web.Request) -> web.Response:
    sha256 = request.match_info["sha256"]
    if not _SHA256.fullmatch(sha256):
        raise Rejected(404, "not_found", "A SHA-256 has 64 hexadecimal digits, in lower case.")
    return answer(request, await ask(request, emails.list_holders(request.app[RES].engine, sha256)))


def _receipt(planned: int, is_capped: bool, bulk_retry_id: int | None) -> BulkRetryReceipt:  # noqa: FBT001 of the count
    return BulkRetryReceipt(planned=planned, planned_capped=is_capped, bulk_retry_id=bulk_retry_id)
