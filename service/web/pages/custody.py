"""The pages of custody: holds and retention rules. A change of rules is simulated before it is saved."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.custody.holds import MOST_LISTED, HoldOrder, release_hold, set_hold
from service.custody.retention_rules import (
    MOST_DAYS,
    Change,
    Rule,
    add_rule,
    change_rule,
    check_rules,
    move_rule,
    remove_rule,
    rule_of,
    save_rules,
)
from service.errors import Rejected
from service.postgres.selection import MOST_REASON, LastingFilter
from service.queries import custody
from service.resources import Resources
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import MOST_DIGITS, ask, form, read_parameters
from service.web.handling.routes import Routes
from service.web.pages.dismissals import ReasonForm
from service.web.pages.frame import redirect, show

routes = Routes()

# Of the time for a request, the part that a simulation may use: its last statement takes some more.
SHARE = 0.5
_FIELDS = tuple(LastingFilter.model_fields)


class FilterForm(BaseModel):
    """The fields of a form that has a filter; an empty field is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=64)
    everything: bool = False
    ticket: str | None = None
    sender: str | None = None
    received_after: str | None = None
    received_before: str | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _trimmed(cls, value: object) -> object:
        return (value.strip() or None) if isinstance(value, str) else value

    @property
    def filter(self) -> LastingFilter | None:
        """The filter; None without a field, unless everything is meant. Raises Rejected (400)."""
        given = self.model_dump(include={*_FIELDS}, exclude_none=True)
        if given and self.everything:
            raise Rejected(400, "bad_body", "Choose either everything or a filter.")
        try:
            return LastingFilter.model_validate(given) if given or self.everything else None
        except ValidationError as exc:
            error = exc.errors(include_url=False, include_input=False)[0]
            message = error["msg"].removeprefix("Value error, ")
            raise Rejected(400, "bad_body", f"{error['loc'][0]}: {message}") from None


class HoldForm(FilterForm):
    """The form of a new hold."""

    emails: str | None = Field(None, max_length=20 * MOST_LISTED)
    reason: str | None = Field(None, max_length=MOST_REASON)

    @property
    def email_ids(self) -> Sequence[int]:
        """The ids, between commas or spaces; raises Rejected (400)."""
        words = (self.emails or "").replace(",", " ").split()
        if not all(word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS for word in words):
            raise Rejected(
                400, "bad_body", "Write the numbers of e-mails, with commas or spaces between them."
            )
        if len(words) > MOST_LISTED:
            raise Rejected(
                400, "bad_body", f"A hold lists at most {MOST_LISTED} e-mails; use a filter for more."
            )
        return [int(word) for word in words]


class RuleForm(FilterForm):
    """A change of the rules: the parameters of its plan, and the form that saves it."""

    action: Literal["add", "change", "move", "remove"]
    place: int | None = Field(None, ge=1, le=1000)
    keep_days: int | None = Field(None, ge=0, le=MOST_DAYS)
    for_ever: bool = False
    includes_failed: bool = False
    version: str | None = Field(None, max_length=100)

    @property
    def rule(self) -> Rule:
        if (self.keep_days is None) != self.for_ever:
            raise Rejected(400, "bad_body", "Give either a number of days or choose for ever.")
        wanted = self.filter
        if wanted is None:
            raise Rejected(400, "bad_body", "Give a filter, or choose everything.")
        return Rule(self.name, wanted, self.keep_days, self.includes_failed)

    def change(self, rules: Sequence[Rule]) -> Change:
        """Return the change of these rules, made of the list that the person saw."""
        if self.action == "add":
            made = add_rule(rules, self.rule, self.place)
        elif self.action == "change":
            made = change_rule(rules, self.name, self.rule)
        elif self.action == "move":
            made = move_rule(rules, self.name, self.place or 1)
        else:
            made = remove_rule(rules, self.name)
        return replace(made, version=self.version) if self.version else made

    @property
    def values(self) -> Mapping[str, str]:
        """The fields of the form that repeats this one."""
        given = self.model_dump(exclude_none=True, exclude={"version"})
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in given.items()
        }


@routes.get("/holds")
async def list_holds(request: web.Request) -> web.Response:
    page = await ask(request, custody.list_holds(request.app[RES].engine))
    return await show(request, "holds.html", page=page)


@routes.get("/holds/-new")
async def ask_for_hold(request: web.Request) -> web.Response:
    """Show the form of a new hold; no hold has such a name."""
    values = {name: request.query.get(name, "") for name in (*_FIELDS, "emails")}
    return await show(request, "hold_form.html", values=values, most_reason=MOST_REASON)


@routes.post("/holds")
async def create_hold(request: web.Request) -> web.Response:
    given, res = await form(request, HoldForm), request.app[RES]
    order = HoldOrder(given.name, given.reason or "", given.filter, given.email_ids)
    await ask(request, set_hold(res, order, request[IDENTITY].actor))
    return redirect(f"/holds/{given.name}", "hold_set")


@routes.get("/holds/{name}")
async def show_hold(request: web.Request) -> web.Response:
    hold = await ask(request, custody.get_hold(request.app[RES].engine, request.match_info["name"]))
    return await show(request, "hold.html", hold=hold, most_reason=MOST_REASON)


@routes.post("/holds/{name}/release")
async def release(request: web.Request) -> web.Response:
    name, given = request.match_info["name"], await form(request, ReasonForm)
    await ask(request, release_hold(request.app[RES], name, request[IDENTITY].actor, given.reason))
    return redirect(f"/holds/{name}", "hold_released")


@routes.get("/retention")
async def show_retention(request: web.Request) -> web.Response:
    """Show the rules; with `simulate`, also what they would delete."""
    res = request.app[RES]
    page = await ask(request, custody.get_retention(res.engine, res.settings.retention_floor_days))
    found = await _simulate(request, None) if request.query.get("simulate") else None
    return await show(request, "retention.html", page=page, found=found)


@routes.get("/retention/rule")
async def ask_for_rule(request: web.Request) -> web.Response:
    """Show the form of a new rule, or of the one with a name."""
    res, name = request.app[RES], request.query.get("name", "")
    rule = rule_of(await ask(request, custody.get_rules(res.engine)), name) if name else None
    values = rule.filter.model_dump(mode="json") if rule else dict.fromkeys(_FIELDS)
    floor = res.settings.retention_floor_days
    values = {field: value or "" for field, value in values.items()}
    return await show(
        request, "retention_rule.html", rule=rule, values=values, floor=floor, most_days=MOST_DAYS
    )


@routes.get("/retention/plan")
async def plan_change(request: web.Request) -> web.Response:
    """Show what the rules would delete after a change, before it is saved."""
    given, res = read_parameters(dict(request.query), RuleForm), request.app[RES]
    made = given.change(await ask(request, custody.get_rules(res.engine)))
    check_rules(made.rules, res.settings.retention_floor_days)
    found = await _simulate(request, made.rules)
    return await show(request, "retention_plan.html", given=given, version=made.version, found=found)


@routes.post("/retention")
async def change_retention(request: web.Request) -> web.Response:
    given, res = await form(request, RuleForm), request.app[RES]
    made = given.change(await ask(request, custody.get_rules(res.engine)))
    await ask(request, save_rules(res, made, request[IDENTITY].actor))
    return redirect("/retention", "rules_saved")


async def _simulate(request: web.Request, rules: Sequence[Rule] | None) -> custody.SimulationView:
    res: Resources = request.app[RES]
    seconds, floor_days = SHARE * res.settings.database_seconds, res.settings.retention_floor_days
    return await ask(request, custody.get_simulation(res.engine, rules, floor_days, seconds))
