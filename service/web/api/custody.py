"""The API of custody: holds, retention rules, and what these would delete."""

from collections.abc import Sequence
from typing import Annotated

from aiohttp import web
from pydantic import Field

from service.custody.holds import MOST_LISTED, HoldOrder, release_hold, set_hold
from service.custody.retention_rules import MOST_DAYS, MOST_RULES, Change, Rule, check_rules, save_rules
from service.postgres.selection import MOST_REASON, LastingFilter
from service.queries import custody
from service.queries.custody import HoldDetail, HoldPage, RetentionView, SimulationView
from service.queries.views import View
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import AS_INTEGER, Body, EmailId, answer, ask, body, reply
from service.web.handling.routes import Routes

routes = Routes("Custody")

# Of the time for a request, the part that a simulation may use: its last statement takes some more.
SHARE = 0.5


class HoldRequest(Body):
    """A hold to set: what it covers, and why."""

    name: str = Field(
        pattern="^[a-z0-9][a-z0-9._-]{0,63}$", description="No other hold may have it, or have had it"
    )
    reason: str = Field(min_length=1, max_length=MOST_REASON, description="For people")
    filter: LastingFilter | None = Field(
        None, description="It covers what matches, now and later; `{}` matches everything"
    )
    emails: Sequence[EmailId] = Field((), max_length=MOST_LISTED, description="Ids of e-mails that it lists")


class ReleaseRequest(Body):
    """Why a hold is released."""

    reason: str = Field(min_length=1, max_length=MOST_REASON, description="For people")


class RuleRequest(Body):
    """A retention rule."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")
    filter: LastingFilter = Field(LastingFilter(), description="Without a field it matches everything")
    keep_days: Annotated[int, Field(ge=0, le=MOST_DAYS), AS_INTEGER] | None = Field(
        description="Days after the end of the job; null: for ever"
    )
    includes_failed: bool = Field(False, description="Also deletes e-mails that need attention")


class RetentionRequest(Body):
    """The new list of rules, and the version of the list that it replaces."""

    rules: Sequence[RuleRequest] = Field(max_length=MOST_RULES)
    version: str = Field(max_length=100, description="As `GET /api/v1/retention` tells it")
    dry_run: bool = Field(False, description="Only simulate the new list")

    @property
    def change(self) -> Change:
        return Change([Rule(**dict(rule)) for rule in self.rules], self.version, "set_rules")


class RetentionReceipt(View):
    """What the new list would delete, and whether it is saved."""

    saved: bool
    simulation: SimulationView


@routes.get("/api/v1/holds", answer=HoldPage)
async def list_holds(request: web.Request) -> web.Response:
    """List holds: those in force first."""
    return await reply(request, custody.list_holds(request.app[RES].engine))


@routes.post(
    "/api/v1/holds",
    body=HoldRequest,
    answer=HoldDetail,
    status=201,
    errors={
        404: "A listed e-mail does not exist (`email_not_found`).",
        409: "A hold has or had this name (`hold_exists`), the reason is blank (`reason_missing`), or the hold would cover"
        " nothing (`hold_empty`).",
    },
)
async def create_hold(request: web.Request) -> web.Response:
    """Set a hold: nothing that it covers may be deleted until it is released."""
    wanted, res = await body(request, HoldRequest), request.app[RES]
    order = HoldOrder(wanted.name, wanted.reason, wanted.filter, wanted.emails)
    await ask(request, set_hold(res, order, request[IDENTITY].actor))
    return answer(request, await ask(request, custody.get_hold(res.engine, wanted.name)), status=201)


@routes.get("/api/v1/holds/{name}", answer=HoldDetail)
async def show_hold(request: web.Request) -> web.Response:
    """Show a hold."""
    return await reply(request, custody.get_hold(request.app[RES].engine, request.match_info["name"]))


@routes.post(
    "/api/v1/holds/{name}/release",
    body=ReleaseRequest,
    answer=HoldDetail,
    errors={409: "It is released already (`hold_released`), or the reason is blank (`reason_missing`)."},
)
async def release(request: web.Request) -> web.Response:
    """Release a hold. It stays on record, and covers nothing any more."""
    wanted, res, name = await body(request, ReleaseRequest), request.app[RES], request.match_info["name"]
    await ask(request, release_hold(res, name, request[IDENTITY].actor, wanted.reason))
    return await reply(request, custody.get_hold(res.engine, name))


@routes.get("/api/v1/retention", answer=RetentionView)
async def show_retention(request: web.Request) -> web.Response:
    """Show the retention rules."""
    res = request.app[RES]
    return await reply(request, custody.get_retention(res.engine, res.settings.retention_floor_days))


@routes.post(
    "/api/v1/retention",
    body=RetentionRequest,
    answer=RetentionReceipt,
    errors={
        409: "Somebody changed the rules meanwhile (`rules_changed`), or one is wrong (`rule_wrong`): `detail` says why.",
    },
)
async def change_retention(request: web.Request) -> web.Response:
    """Replace the list of retention rules; with `dry_run`, only simulate the new one."""
    wanted, res = await body(request, RetentionRequest), request.app[RES]
    floor_days = res.settings.retention_floor_days
    check_rules(wanted.change.rules, floor_days)
    seconds = SHARE * res.settings.database_seconds
    simulation = custody.get_simulation(res.engine, wanted.change.rules, floor_days, seconds)
    simulated = await ask(request, simulation)
    if not wanted.dry_run:
        await ask(request, save_rules(res, wanted.change, request[IDENTITY].actor))
    return answer(request, RetentionReceipt(saved=not wanted.dry_run, simulation=simulated))


@routes.get("/api/v1/retention/simulation", answer=SimulationView)
async def show_simulation(request: web.Request) -> web.Response:
    """Simulate the saved rules: what they delete now and within a year."""
    res = request.app[RES]
    seconds = SHARE * res.settings.database_seconds
    floor_days = res.settings.retention_floor_days
    return await reply(request, custody.get_simulation(res.engine, None, floor_days, seconds))
