"""The API of the overview: actions, dependencies, alerts, reconciliations, statistics."""

from collections.abc import Sequence
from typing import Literal

from aiohttp import web

from service.operate import dismiss
from service.operate.repair import repair_finding
from service.queries import actions, alerts, overview, reconciliations
from service.queries.actions import ActionPage
from service.queries.alerts import AlertFilter, AlertPage
from service.queries.overview import Overview, Stats
from service.queries.pages import PageFilter
from service.queries.reconciliations import ReconciliationDetail, ReconciliationPage
from service.queries.views import View
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import DismissRequest, answer, ask, body, number, parameters, reply
from service.web.handling.routes import Routes
from service.web.pages.live import LIVE

routes = Routes("Overview")


class CheckView(View):
    """The state of a dependency."""

    name: str
    ok: bool | None  # null: degraded, or not known yet
    found: str
    advice: str


class CheckPage(View):
    """All dependencies, as they were some seconds ago; Zendesk's credentials, some minutes ago."""

    checks: Sequence[CheckView]


class FindingDismissed(View):
    """The difference is dismissed."""

    dismissed: Literal[True] = True
    finding_id: int


class RepairBegun(View):
    """The repair of the difference has begun."""

    repairing: Literal[True] = True
    finding_id: int


class FindingUndismissed(View):
    """The difference is not dismissed any more."""

    dismissed: Literal[False] = False
    finding_id: int


@routes.get("/api/v1/actions", query=PageFilter, answer=ActionPage)
async def list_actions(request: web.Request) -> web.Response:
    """List operators' actions, newest first."""
    wanted = parameters(request, PageFilter)
    return await reply(request, actions.list_actions(request.app[RES].engine, wanted))


@routes.get("/api/v1/checks", answer=CheckPage)
async def show_checks(request: web.Request) -> web.Response:
    """Show the state of all dependencies, with advice."""
    found = await request.app[LIVE].dependencies()
    return answer(request, CheckPage(checks=[CheckView.model_validate(check) for check in found]))


@routes.get("/api/v1/alerts", query=AlertFilter, answer=AlertPage)
async def list_alerts(request: web.Request) -> web.Response:
    """List open and resolved alerts."""
    wanted = parameters(request, AlertFilter)
    return await reply(request, alerts.list_alerts(request.app[RES].engine, wanted.limit))


@routes.get("/api/v1/reconciliations", query=PageFilter, answer=ReconciliationPage)
async def list_reconciliations(request: web.Request) -> web.Response:
    """List reconciliations and verifications, newest first."""
    wanted = parameters(request, PageFilter)
    return await reply(request, reconciliations.list_reconciliations(request.app[RES].engine, wanted))


@routes.get("/api/v1/reconciliations/{id}", query=PageFilter, answer=ReconciliationDetail)
async def show_reconciliation(request: web.Request) -> web.Response:
    """Show a reconciliation with a page of its findings."""
    run_id, wanted = number(request, "id"), parameters(request, PageFilter)
    return await reply(request, reconciliations.get_reconciliation(request.app[RES].engine, run_id, wanted))


@routes.post(
    "/api/v1/findings/{id}/dismiss",
    body=DismissRequest,
    answer=FindingDismissed,
    errors={
        409: "It is no open difference (`not_open`), it is dismissed (`already_dismissed`), or the reason is blank (`reason_missing`).",
    },
)
async def dismiss_finding(request: web.Request) -> web.Response:
    """Dismiss an open difference of a reconciliation, until a later one finds it gone."""
    wanted, finding_id = await body(request, DismissRequest), number(request, "id")
    actor = request[IDENTITY].actor
    await ask(request, dismiss.dismiss_finding(request.app[RES], finding_id, actor, wanted.reason))
    return answer(request, FindingDismissed(finding_id=finding_id))


@routes.post(
    "/api/v1/findings/{id}/undismiss",
    answer=FindingUndismissed,
    errors={409: "It is not dismissed (`not_dismissed`)."},
)
async def undismiss_finding(request: web.Request) -> web.Response:
    """End the dismissal of a difference."""
    finding_id = number(request, "id")
    await ask(request, dismiss.undismiss_finding(request.app[RES], finding_id, request[IDENTITY].actor))
    return answer(request, FindingUndismissed(finding_id=finding_id))


@routes.post(
    "/api/v1/findings/{id}/repair",
    answer=RepairBegun,
    status=202,
    errors={
        409: "It is no open difference (`not_open`), only a run with `--fix` can repair it (`not_repairable`), its e-mail"
        " is in work (`not_finished`), or there is no target (`sync_off`).",
    },
)
async def repair_difference(request: web.Request) -> web.Response:
    """Sync or fetch again what an open difference is about."""
    finding_id, actor = number(request, "id"), request[IDENTITY].actor
    await ask(request, repair_finding(request.app[RES], finding_id, actor))
    return answer(request, RepairBegun(finding_id=finding_id), status=202)


@routes.get("/api/v1/overview", answer=Overview)
async def show_overview(request: web.Request) -> web.Response:
    """Tell whether all e-mails are stored, hour by hour, and which workers are alive."""
    res = request.app[RES]
    return await reply(request, overview.summarize(res.engine, res.settings))


@routes.get("/api/v1/stats", answer=Stats)
async def stats(request: web.Request) -> web.Response:
    """Count e-mails by state, and show the longest waiting time."""
    return await reply(request, overview.stats(request.app[RES].engine))
