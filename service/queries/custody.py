"""Holds and retention rules as they are shown: the lists of both, and the findings of the simulator."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.custody.holds import NAME, no_hold
from service.custody.retention_rules import Rule, load_rules, version_of
from service.custody.scopes import Scope, emails_in
from service.custody.simulation import RuleOutcome, Simulation, simulate
from service.postgres.engine import connect
from service.postgres.held_emails import covers, shown_filter, versions_of
from service.postgres.hold_tables import HeldEmail, Hold
from service.postgres.search import count
from service.postgres.selection import LastingFilter, StoredFilter
from service.queries.views import View

MAX_HOLDS = 500
MAX_LISTED = 1_000


class HoldView(View):
    """An order that nothing it covers may be deleted. A released one covers nothing, and stays on record."""

    name: str
    reason: str
    filter: StoredFilter | None = Field(
        description="It covers what matches, now and later; null: only listed e-mails; without a field: everything"
    )
    unfit: StoredFilter | None = Field(
        description="The filter that an earlier version accepted although it can match no e-mail: the hold covers everything"
    )
    listed: int = Field(description="The number of e-mails that it lists")
    set_at: datetime
    set_by: str
    released_at: datetime | None
    released_by: str | None
    release_reason: str | None


class HoldPage(View):
    holds: Sequence[HoldView] = Field(description="Those in force first, newest first; at most 500")


class HoldDetail(HoldView):
    """A hold, its listed e-mails, and how many e-mails on record match its filter."""

    emails: Sequence[int] = Field(description="The ids of listed e-mails")
    matching: int | None = Field(description="Null without a filter; at least so many if capped")
    matching_capped: bool


class RuleView(View):
    """A retention rule. The first one that matches an e-mail decides."""

    name: str
    filter: StoredFilter = Field(description="Without a field it matches everything")
    keep_days: int | None = Field(description="Days after the end of the job; null: for ever")
    includes_failed: bool = Field(description="Also deletes e-mails that need attention")


class RetentionView(View):
    """The retention rules in their order. E-mails without a rule are kept for ever."""

    rules: Sequence[RuleView]
    version: str = Field(description="A hash of the list; a change names the list that it is made of")
    floor_days: int = Field(description="RETENTION_FLOOR_DAYS: no rule deletes earlier")


class VolumeView(View):
    """E-mails, their stored files, and the bytes of these; a file of several e-mails counts for each."""

    emails: int
    files: int
    bytes: int


class RuleOutcomeView(RuleView):
    """What a rule would delete."""

    matching: int = Field(description="E-mails for which this is the first rule that matches")
    now: VolumeView
    within_year: VolumeView = Field(description="`now` included")
    held: int = Field(description="Kept although their time is over: a hold covers them")
    needing_attention: int = Field(description="Kept although their time is over: they need attention")
    examples: Sequence[int] = Field(description="Ids of the oldest e-mails that would be deleted now")


class SimulationView(View):
    """What rules would delete of the e-mails that are on record."""

    rules: Sequence[RuleOutcomeView]
    examined: int
    without_rule: int = Field(description="E-mails that no rule matches: they are kept for ever")
    complete: bool = Field(description="False: there was time for the oldest e-mails alone")

    @property
    def now(self) -> int:
        return sum(rule.now.emails for rule in self.rules)

    @property
    def within_year(self) -> int:
        return sum(rule.within_year.emails for rule in self.rules)


async def list_holds(engine: AsyncEngine) -> HoldPage:
    """Return the holds: those in force first, newest first."""
    query = _holds().order_by(Hold.released_at.is_not(None), Hold.id.desc()).limit(MAX_HOLDS)
    async with connect(engine) as conn:
        return HoldPage(holds=[HoldView(**_shown(row)) for row in (await conn.execute(query)).mappings()])


async def get_hold(engine: AsyncEngine, name: str) -> HoldDetail:
    """Return a hold; raises Rejected (404)."""
    if not NAME.fullmatch(name):  # it may hold characters that Postgres refuses
        raise no_hold(name)
    async with connect(engine) as conn:
        row = (await conn.execute(_holds().where(Hold.name == name))).mappings().one_or_none()
        if row is None:
            raise no_hold(name)
        listed = select(HeldEmail.email_id).where(HeldEmail.hold_id == row["id"]).order_by(HeldEmail.email_id)
        emails = (await conn.scalars(listed.limit(MAX_LISTED))).all()
        shown = _shown(row)
        matching = await count(conn, shown["filter"].selection) if shown["filter"] is not None else None
        number = matching and matching.number
        if number == 0:
            number = await _covered(conn, shown["filter"])
    return HoldDetail(
        **shown,
        emails=emails,
        matching=number,
        matching_capped=bool(matching and (matching.is_capped or number == MAX_LISTED)),
    )


async def _covered(conn: AsyncConnection, wanted: StoredFilter) -> int:
    """Count what a filter of a hold covers by what lists do not search: the message's sender, and when it was sent."""
    if wanted.ticket is not None:
        scope = Scope("ticket", wanted.ticket)
    elif wanted.sender is not None:
        scope = Scope("sender", wanted.sender)
    else:
        return 0
    ids = await emails_in(conn, scope, 0, 2**62, MAX_LISTED)
    versions = versions_of(ids, [wanted])
    covered = select(func.count(versions.c.id.distinct())).where(covers(wanted, versions))
    return await conn.scalar(covered) or 0


async def get_rules(engine: AsyncEngine) -> list[Rule]:
    async with connect(engine) as conn:
        return await load_rules(conn)


async def get_retention(engine: AsyncEngine, floor_days: int) -> RetentionView:
    """Return the retention rules."""
    rules = await get_rules(engine)
    shown = [RuleView.model_validate(rule) for rule in rules]
    return RetentionView(rules=shown, version=version_of(rules), floor_days=floor_days)


async def get_simulation(
    engine: AsyncEngine, rules: Sequence[Rule] | None, floor_days: int, seconds: float | None
) -> SimulationView:
    """Simulate these rules, or the saved ones, for at most about so many seconds."""
    rules = await get_rules(engine) if rules is None else rules
    return _shown_simulation(await simulate(engine, rules, floor_days, seconds))


def _holds() -> Select[*tuple[Any, ...]]:
    listed = select(func.count()).where(HeldEmail.hold_id == Hold.id).scalar_subquery()
    return select(Hold.__table__, listed.label("listed"))


def _shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    if row["filter"] is None:
        return {**row, "unfit": None}
    written = shown_filter(row["filter"])
    if row["released_at"] is not None or isinstance(written, LastingFilter):
        return {**row, "filter": written, "unfit": None}
    return {**row, "filter": LastingFilter(), "unfit": written}


def _shown_simulation(result: Simulation) -> SimulationView:
    return SimulationView(
        rules=[_shown_outcome(outcome) for outcome in result.outcomes],
        examined=result.examined,
        without_rule=result.without_rule,
        complete=result.is_complete,
    )


def _shown_outcome(outcome: RuleOutcome) -> RuleOutcomeView:
    return RuleOutcomeView(
        **RuleView.model_validate(outcome.rule).model_dump(),
        **{name: value for name, value in asdict(outcome).items() if name != "rule"},
    )
