"""`holdfast retention`: the rules that say how long e-mails are kept, and what they would delete."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from service.cli.dismiss import ask, yes_option
from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.filters import filters
from service.cli.holds import LASTING, everything_option, lasting_filter, said_filter
from service.cli.terminal import Column, json_option, print_json, print_line, print_table
from service.formatting import counted

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.custody.retention_rules import Change, Rule
    from service.queries.custody import RetentionView, RuleView, SimulationView

    Edit = Callable[[Sequence[Rule]], Change]

COLUMNS = (Column("place", whole=True), Column("name", whole=True), Column("keeps", whole=True), Column("of"))
OUTCOME_COLUMNS = (
    Column("rule", whole=True),
    Column("keeps", whole=True),
    Column("matching", whole=True),
    Column("now", whole=True),
    Column("bytes", whole=True),
    Column("within a year", whole=True),
    Column("bytes", whole=True),
    Column("held", whole=True),
    Column("need attention", whole=True),
    Column("such as"),
)
_days_option = click.option(
    "--days", type=click.IntRange(min=0), help="Days to keep, after the end of the job."
)
_for_ever_option = click.option("--for-ever", is_flag=True, help="Never delete.")
_failed_option = click.option(
    "--includes-failed/--spares-failed",
    "includes_failed",
    default=None,
    help="Whether the rule also deletes e-mails that need attention; by default not.",
)
_place = click.IntRange(min=1)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what the new rules would delete.")


@click.group()
def retention() -> None:
    """Say how long e-mails are kept. Without a rule, all are kept for ever."""


@retention.command("list")
@json_option
@env_file
def list_(*, as_json: bool) -> None:
    """List the rules in their order.

    The first one that matches an e-mail decides.
    """
    page = with_engine(_get)
    if as_json:
        print_json(page)
        return
    rows = (
        (place, rule.name, _keeps(rule), said_filter(rule.filter)) for place, rule in enumerate(page.rules, 1)
    )
    print_table(COLUMNS, rows)
    if not page.rules:
        click.echo("There is no rule: all e-mails are kept for ever.", err=True)


@retention.command()
@click.argument("name")
@_days_option
@_for_ever_option
@filters(*LASTING)
@everything_option
@_failed_option
@click.option("--place", type=_place, help="Its place in the list, from 1; by default the last.")
@_dry_run_option
@yes_option
@env_file
def add(  # noqa: PLR0913 each an option
    name: str,
    *,
    days: int | None,
    for_ever: bool,
    everything: bool,
    includes_failed: bool | None,
    place: int | None,
    dry_run: bool,
    yes: bool,
    **chosen: str | None,
) -> None:
    """Add a rule; first shows what the new rules would delete, and asks."""
    from service.custody.retention_rules import Rule, add_rule

    if (days is None) != for_ever:
        raise click.UsageError("Give either --days or --for-ever.")
    if (wanted := lasting_filter(chosen, everything=everything)) is None:
        raise click.UsageError("Give filters, or --everything.")
    rule = Rule(name, wanted, days, bool(includes_failed))
    _change(lambda rules: add_rule(rules, rule, place), dry_run=dry_run, yes=yes)


@retention.command()
@click.argument("name")
@_days_option
@_for_ever_option
@filters(*LASTING)
@everything_option
@_failed_option
@_dry_run_option
@yes_option
@env_file
def change(  # noqa: PLR0913 each an option
    name: str,
    *,
    days: int | None,
    for_ever: bool,
    everything: bool,
    includes_failed: bool | None,
    dry_run: bool,
    yes: bool,
    **chosen: str | None,
) -> None:
    """Change the days or the filter of a rule.

    The command first shows what the new rules would delete, and asks.
    """
    from service.custody.retention_rules import change_rule, rule_of

    if days is not None and for_ever:
        raise click.UsageError("Give either --days or --for-ever.")
    wanted = lasting_filter(chosen, everything=everything)

    def edit(rules: "Sequence[Rule]") -> "Change":
        rule = rule_of(rules, name)
        if wanted is not None:
            rule = replace(rule, filter=wanted)
        if days is not None or for_ever:
            rule = replace(rule, keep_days=days)
        if includes_failed is not None:
            rule = replace(rule, includes_failed=includes_failed)
        return change_rule(rules, name, rule)

    _change(edit, dry_run=dry_run, yes=yes)


@retention.command()
@click.argument("name")
@click.argument("place", type=_place)
@_dry_run_option
@yes_option
@env_file
def move(name: str, place: int, *, dry_run: bool, yes: bool) -> None:
    """Move a rule to another PLACE in the list, from 1."""
    from service.custody.retention_rules import move_rule

    _change(lambda rules: move_rule(rules, name, place), dry_run=dry_run, yes=yes)


@retention.command()
@click.argument("name")
@_dry_run_option
@yes_option
@env_file
def remove(name: str, *, dry_run: bool, yes: bool) -> None:
    """Remove a rule; a later one may match its e-mails then."""
    from service.custody.retention_rules import remove_rule

    _change(lambda rules: remove_rule(rules, name), dry_run=dry_run, yes=yes)


@retention.command()
@json_option
@env_file
def simulate(*, as_json: bool) -> None:
    """Show what the rules would delete.

    It counts what is due now, and within a year. Nothing is deleted.
    """
    found = with_engine(lambda engine: _simulate(engine, None))
    print_json(found) if as_json else _print_simulation(found)


def _change(edit: "Edit", *, dry_run: bool, yes: bool) -> None:
    """Show what the new rules would delete, ask, and save them."""
    from service.custody.retention_rules import save_rules

    made = with_engine(lambda engine: _make(engine, edit))
    found = with_engine(lambda engine: _simulate(engine, made.rules))
    _print_simulation(found)
    if dry_run:
        return
    ask("Save these rules?", yes=yes)
    with_resources(lambda res: save_rules(res, made, actor()))
    click.echo("Saved.")


async def _make(engine: "AsyncEngine", edit: "Edit") -> "Change":
    from service.config.reading import read_settings
    from service.custody.retention_rules import check_rules, load_rules
    from service.postgres.engine import connect

    async with connect(engine) as conn:
        made = edit(await load_rules(conn))
    check_rules(made.rules, read_settings().retention_floor_days)
    return made


async def _get(engine: "AsyncEngine") -> "RetentionView":
    from service.config.reading import read_settings
    from service.queries.custody import get_retention

    return await get_retention(engine, read_settings().retention_floor_days)


async def _simulate(engine: "AsyncEngine", rules: "Sequence[Rule] | None") -> "SimulationView":
    from service.config.reading import read_settings
    from service.queries.custody import get_simulation

    return await get_simulation(engine, rules, read_settings().retention_floor_days, None)


def _print_simulation(found: "SimulationView") -> None:
    rows = (
        (
            rule.name,
            _keeps(rule),
            *(f"{each:,}" for each in (rule.matching, rule.now.emails, rule.now.bytes)),
            *(f"{each:,}" for each in (rule.within_year.emails, rule.within_year.bytes)),
            *(f"{each:,}" for each in (rule.held, rule.needing_attention)),
            ", ".join(map(str, rule.examples)),
        )
        for rule in found.rules
    )
    print_table(OUTCOME_COLUMNS, rows)
    print_line(
        f"{counted(found.now, 'e-mail')} would be deleted now, {found.within_year:,} within a year;"
        f" no rule matches {found.without_rule:,}."
        if found.rules
        else "Without a rule, all e-mails are kept for ever."
    )


def _keeps(rule: "RuleView") -> str:
    days = "for ever" if rule.keep_days is None else counted(rule.keep_days, "day")
    return f"{days}, failed too" if rule.includes_failed and rule.keep_days is not None else days
