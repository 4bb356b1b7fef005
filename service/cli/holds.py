"""`holdfast holds`: set, list, show and release holds, which forbid to delete e-mails."""

from typing import TYPE_CHECKING

import click

from service.cli.dismiss import ask, yes_option
from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.filters import ID, filters, selection
from service.cli.terminal import (
    Column,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
)
from service.cli.times import shown_time
from service.formatting import counted

if TYPE_CHECKING:
    from service.postgres.selection import LastingFilter, StoredFilter
    from service.queries.custody import HoldDetail, HoldView
    from service.resources import Resources

COLUMNS = (
    Column("name", whole=True),
    Column("state", whole=True),
    Column("set", whole=True),
    Column("by", least_width=100),
    Column("covers"),
    Column("reason"),
)
# The filters of holds and of retention rules: facts of an e-mail that do not change by themselves.
LASTING = ("ticket", "sender", "received_after", "received_before")
NOTHING_MATCHES = (
    "no e-mail on record matches the filter. Look how ticket and sender are written: `holdfast emails list`."
    " What comes later, and e-mails without a known sender, are covered."
)

everything_option = click.option("--everything", is_flag=True, help="All e-mails: no filter.")
_reason_option = click.option(
    "--reason", required=True, help="Why, at most 500 characters; others will read it."
)


@click.group()
def holds() -> None:
    """Set, list, show and release holds: forbid deletions."""


@holds.command()
@click.argument("name")
@_reason_option
@filters(*LASTING)
@everything_option
@click.option(
    "--email", "email_ids", metavar="ID", type=ID, multiple=True, help="This e-mail; may be repeated."
)
@json_option
@env_file
def create(
    name: str,
    *,
    reason: str,
    everything: bool,
    email_ids: tuple[int, ...],
    as_json: bool,
    **chosen: str | None,
) -> None:
    """Set a hold: nothing that it covers may be deleted.

    It covers what matches the filters, now and later, and the e-mails of --email.
    """
    from service.custody.holds import HoldOrder, set_hold
    from service.queries.custody import get_hold

    order = HoldOrder(name, reason, lasting_filter(chosen, everything=everything), email_ids)

    async def work(res: "Resources") -> "HoldDetail":
        await set_hold(res, order, actor())
        return await get_hold(res.engine, name)

    _print_hold(with_resources(work), as_json=as_json)


@holds.command("list")
@json_option
@env_file
def list_(*, as_json: bool) -> None:
    """List holds: those in force first, newest first."""
    from service.queries.custody import list_holds

    page = with_engine(list_holds)
    rows = (
        (hold.name, _state(hold), shown_time(hold.set_at), hold.set_by, _covers(hold), hold.reason)
        for hold in page.holds
    )
    print_json(page) if as_json else print_table(COLUMNS, rows)


@holds.command()
@click.argument("name")
@json_option
@env_file
def show(name: str, *, as_json: bool) -> None:
    """Show a hold, and how many e-mails it covers."""
    from service.queries.custody import get_hold

    _print_hold(with_engine(lambda engine: get_hold(engine, name)), as_json=as_json)


@holds.command()
@click.argument("name")
@_reason_option
@yes_option
@json_option
@env_file
def release(name: str, *, reason: str, yes: bool, as_json: bool) -> None:
    """Release a hold: what it covers may be deleted again. It stays on record."""
    from service.custody.holds import release_hold
    from service.queries.custody import get_hold

    async def work(res: "Resources") -> "HoldDetail":
        await release_hold(res, name, actor(), reason)
        return await get_hold(res.engine, name)

    ask(f"Release hold {name}? What it covers may be deleted then.", yes=yes)
    _print_hold(with_resources(work), as_json=as_json)


def lasting_filter(chosen: dict[str, str | None], *, everything: bool) -> "LastingFilter | None":
    """Return the filter of the options; None without one, an empty one with --everything."""
    from service.postgres.selection import LastingFilter

    given = {name: value for name, value in chosen.items() if value is not None}
    if given and everything:
        raise click.UsageError("Give either --everything or filters.")
    if not (given or everything):
        return None
    return selection(LastingFilter, given)


def said_filter(wanted: "StoredFilter") -> str:
    fields = wanted.model_dump(mode="json", exclude_none=True)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items()) or "everything"


def _covers(hold: "HoldView") -> str:
    parts = [said_filter(hold.filter)] if hold.filter is not None else []
    parts += [counted(hold.listed, "listed e-mail")] if hold.listed else []
    return "; ".join(parts)


def _state(hold: "HoldView") -> str:
    return "released" if hold.released_at else "in force"


def _print_hold(hold: "HoldDetail", *, as_json: bool) -> None:
    if hold.matching == 0 and hold.released_at is None:
        click.echo(f"Warning: {NOTHING_MATCHES}", err=True)
    if as_json:
        print_json(hold)
        return
    print_line(f"Hold {hold.name}", "is", _state(hold))
    matching = (
        None if hold.matching is None else f"{hold.matching:,}{' or more' if hold.matching_capped else ''}"
    )
    print_facts(
        [
            ("covers", _covers(hold)),
            (
                "set for",
                hold.unfit and f"{said_filter(hold.unfit)}: it can match no e-mail, so all are covered",
            ),
            ("matching", matching and f"{matching} e-mails on record match its filter"),
            ("e-mails", ", ".join(map(str, hold.emails)) or None),
            ("reason", hold.reason),
            ("set", f"{shown_time(hold.set_at)} by {hold.set_by}"),
            ("released", hold.released_at and f"{shown_time(hold.released_at)} by {hold.released_by}"),
            ("why", hold.release_reason),
        ]
    )
