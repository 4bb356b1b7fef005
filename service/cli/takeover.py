"""`holdfast takeover`: take over the table of another system."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from service.cli.environment import env_file, with_engine
from service.cli.processes import run_migrations
from service.cli.terminal import progress
from service.errors import SettingsError
from service.formatting import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.takeover.plan import TakeoverPlan

T = TypeVar("T")
CONNECT_SECONDS = 20.0
EMAILS_PER_STEP = 1_000
SECONDS = 300.0  # for one statement; the longest one counts all rows
MEANINGS = ("received", "completed", "failed")


def _read_map(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    from service.takeover.plan import meaning_of

    states: dict[str, str] = {}
    for each in given:
        old, equals, new = each.rpartition("=")
        new = "received" if new == "queued" else new
        if not equals or new not in MEANINGS:
            raise click.BadParameter(f"{each!r} is not OLD=NEW, where NEW is received, completed or failed.")
        own = meaning_of(old, {})
        if own is not None and own != new and (old, new) != ("queued", "received"):
            raise click.BadParameter(f"{old!r} already means {own!r}: leave it out.")
        states[old] = new
    return states


@click.command()
@click.option("--plan", "only_plan", is_flag=True, help="Only show the plan.")
@click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal.")
@click.option(
    "--map",
    "states",
    multiple=True,
    metavar="OLD=NEW",
    callback=_read_map,
    help="Meaning of the other system's state OLD: received (Holdfast processes it), completed or failed.",
)
@env_file
def takeover(states: dict[str, str], *, only_plan: bool, yes: bool) -> None:
    """Take over the table of another system.

    The table is incoming_emails; all its rows and columns are kept. The command first shows its plan. Stop the other
    system's worker before; its web process may go on writing. After an interruption, the same command continues.
    """
    plan = _with_engine(lambda engine: _look(engine, states))
    if not plan.is_needed:
        click.echo(plan.reason_for_none, err=plan.standing.is_blocked)
        sys.exit(1 if plan.standing.is_blocked else 0)
    _check_map(plan)
    _print(plan)
    if plan.stops:
        for stop in plan.stops:
            click.echo(f"Cannot take over: {printable(stop)}", err=True)
        sys.exit(1)
    if only_plan:
        return
    states = _ask(plan, states, yes=yes)
    _execute(states)


def _check_map(plan: "TakeoverPlan") -> None:
    """Raise UsageError for the meaning of a state that no row has, unless the table cannot be taken over anyway."""
    if plan.unused and not plan.stops:
        there = ", ".join(map(repr, plan.counts)) or "none"
        raise click.UsageError(
            f"--map: no e-mail has the state {plan.unused[0]!r}; the states are {printable(there)}."
        )


def _print(plan: "TakeoverPlan") -> None:
    from service.takeover.plan import describe

    owner = f"was made by another system (Alembic revision {plan.standing.revision or 'none'})"
    whose = owner if plan.is_foreign else "is Holdfast's, but differs from what Holdfast needs"
    click.echo(f"The table incoming_emails {printable(whose)} and has {plan.rows:,} rows. A takeover will:")
    for number, step in enumerate(describe(plan), 1):
        click.echo(f"{number:>3}. {printable(step)}")
    click.echo("All rows and columns are kept.")


def _ask(plan: "TakeoverPlan", states: dict[str, str], *, yes: bool) -> dict[str, str]:
    """Ask for the meaning of unknown states, and whether to begin; exits with 2 without a terminal."""
    from service.takeover.plan import suggest_meaning

    is_terminal = sys.stdin.isatty()
    if plan.unknown and (yes or not is_terminal):
        named = ", ".join(f"{state!r} ({count:,})" for state, count in plan.unknown.items())
        first = next(iter(plan.unknown))
        raise click.UsageError(
            f"Unknown states: {printable(named)}. Map each one: --map {printable(first)}={suggest_meaning(first)}"
        )
    if not (yes or is_terminal):
        raise click.UsageError("No terminal: add --yes, or --plan.")
    for state, count in plan.unknown.items():
        question = f"Meaning of the state {printable(state)!r} ({count:,} e-mails)?"
        choice: str = click.prompt(
            question, type=click.Choice(MEANINGS), default=suggest_meaning(state), err=True
        )
        states = {**states, state: choice}
    if not yes:
        click.confirm("Take over?", abort=True, err=True)
    return states


def _execute(states: dict[str, str]) -> None:
    plan = _with_engine(lambda engine: _change(engine, states))
    files, not_captured = _migrate(plan)
    if files:
        click.echo(f"Attachments added: {files:,}; attempts download {files - not_captured:,} of them.")
    if not_captured:
        click.echo(
            f"{not_captured:,} belong to finished e-mails and are not captured:"
            " `holdfast emails retry --all --error-code not_captured` downloads those that still exist."
        )
    click.echo(
        "The takeover is done. Start `holdfast web` and `holdfast worker`; `holdfast check` checks the rest."
    )


def _migrate(plan: "TakeoverPlan") -> tuple[int, int]:
    """Run the migrations, and add attachments as soon as their table exists: later indexes would slow that down."""
    from service.takeover.apply import ATTACHMENTS_REVISION, add_columns_of_lists

    early = (0, 0)
    if any(name.startswith(ATTACHMENTS_REVISION) for name in plan.migrations):
        run_migrations(ATTACHMENTS_REVISION)
        _with_engine(add_columns_of_lists)
        early = _with_engine(_read_lists)
    if plan.migrations:
        run_migrations()
    late = _with_engine(_read_lists)
    return early[0] + late[0], early[1] + late[1]


async def _look(engine: "AsyncEngine", states: dict[str, str]) -> "TakeoverPlan":
    from service.postgres.engine import connect
    from service.takeover.plan import make_plan

    async with connect(engine) as conn:
        return await make_plan(conn, states)


async def _change(engine: "AsyncEngine", states: dict[str, str]) -> "TakeoverPlan":
    """Plan again, because another takeover may have run meanwhile, and execute the plan."""
    from service.takeover.apply import apply, exclusive

    async with exclusive(engine):
        plan = await _look(engine, states)
        with progress("Rows", plan.rows) as show_progress:
            await apply(engine, plan, lambda done: show_progress(done, ""))
    return plan


async def _read_lists(engine: "AsyncEngine") -> tuple[int, int]:
    from service.takeover.lists import read_next

    files = not_captured = after = 0
    with progress("Files") as show_progress:
        while True:
            done = await read_next(engine, SECONDS, after, EMAILS_PER_STEP)
            files, not_captured, after = files + done.files, not_captured + done.not_captured, done.after
            show_progress(files, "")
            if not after:
                return files, not_captured


def _with_engine(work: Callable[["AsyncEngine"], Awaitable[T]]) -> T:
    """Run queries that may read all rows; raises SettingsError behind a connection pooler."""
    from service.postgres.engine import connect, is_pooled, within

    async def is_behind_pooler(engine: "AsyncEngine") -> bool:
        async with connect(engine) as conn:
            return await is_pooled(conn)

    async def work_directly(engine: "AsyncEngine") -> T:
        if await within(CONNECT_SECONDS, is_behind_pooler(engine)):
            raise SettingsError(
                "DATABASE_URL leads to a connection pooler: set it to Postgres itself for the takeover"
            )
        return await work(engine)

    return with_engine(work_directly, pool_size=2, seconds=SECONDS)
