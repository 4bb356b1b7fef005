"""`holdfast reconcile`: compare what is on record with the target and the storage, and put right what differs."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.repairs import wait_for_repairs
from service.cli.runs import outcome, print_run, time_option
from service.cli.terminal import Column, json_option, print_json, print_table, progress, shown_time

if TYPE_CHECKING:
    from service.reconcile.finding import Totals
    from service.resources import Resources

COLUMNS = (
    Column("id", whole=True),
    Column("what", whole=True),
    Column("begun", whole=True),
    Column("status", whole=True),
    Column("open", whole=True),
    Column("by", least_width=120),
    Column("found"),
)
ID = click.IntRange(0, 2**63 - 1)


@click.group(invoke_without_command=True)
@time_option
@click.option("--fix", is_flag=True, help="Put right what differs, towards what is on record.")
@click.option("--force", is_flag=True, help="With --fix: also where most of what is looked for is gone.")
@click.option("--wait", is_flag=True, help="With --fix: wait until what was begun is over.")
@json_option
@env_file
@click.pass_context
def reconcile(  # noqa: PLR0913 each an option
    context: click.Context, since: datetime | None, *, fix: bool, force: bool, wait: bool, as_json: bool
) -> None:
    """Compare what is on record with the target and the storage.

    Exits with 0 if all is as it is on record, or is being put right (with --wait: was); 3 if something differs, 1 if that
    could not be found out. Documents of others in the collection, and objects that no e-mail needs, are told of and left alone.

    --fix carries over what is missing or differs, fetches files again whose objects are gone or damaged, and removes
    documents that are ahead of the record or of no e-mail, once the record has a copy of each.
    """
    if context.invoked_subcommand is not None:
        return
    if (wait or force) and not fix:
        raise click.UsageError("--wait and --force are for what --fix begins.")

    async def work(res: "Resources") -> tuple[int, bool]:
        from service.reconcile.run import RunOptions, reconcile

        with progress("Comparing", 100) as tell:
            options = RunOptions(actor(), since, "all" if fix else "nothing", force)
            run_id = await reconcile(res, options, lambda share, seen: tell(share, _seen(seen)))
        return run_id, await wait_for_repairs(res, run_id) if wait else True

    run_id, is_whole = with_resources(work)
    run = print_run(run_id, as_json=as_json)
    sys.exit(outcome(run) if is_whole else 3)


@reconcile.command("list")
@json_option
@env_file
def list_(*, as_json: bool) -> None:
    """List the newest runs, those of workers and verifications too."""
    from service.queries.pages import PageFilter
    from service.queries.reconciliations import list_reconciliations

    page = with_engine(lambda engine: list_reconciliations(engine, PageFilter()))
    if as_json:
        print_json(page)
        return
    rows = (
        (
            run.id,
            run.kind if run.part is None else f"part {run.part + 1} of 24",
            shown_time(run.started_at),
            run.status,
            run.open,
            run.actor,
            run.error or ", ".join(f"{count} {kind}" for kind, count in run.counts.items()) or "nothing",
        )
        for run in page.reconciliations
    )
    print_table(COLUMNS, rows)


@reconcile.command()
@click.argument("run_id", metavar="ID", type=ID)
@json_option
@env_file
def show(run_id: int, *, as_json: bool) -> None:
    """Show a run, and what it found: three of each kind, or all of it with --json, a line each."""
    print_run(run_id, as_json=as_json)


@reconcile.command()
@click.argument("run_id", metavar="ID", type=ID)
@json_option
@env_file
def cancel(run_id: int, *, as_json: bool) -> None:
    """End a run, or a verification, where it is; what it began to put right goes on."""
    from service.reconcile.run import cancel as cancel_run

    with_resources(lambda res: cancel_run(res, run_id, actor()))
    print_run(run_id, as_json=as_json)


def _seen(seen: "Totals") -> str:
    found: Any = sum(seen.counts.values())
    return f"{seen.emails:,} e-mails, {seen.objects:,} objects, {found:,} found"
