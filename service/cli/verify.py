"""`holdfast storage verify`: have workers hash again what is stored."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING

import click

from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.repairs import wait_for_repairs
from service.cli.runs import outcome, print_run, time_option
from service.cli.terminal import json_option, progress

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.reconciliations import ReconciliationDetail

LOOK_SECONDS = 0.5


@click.command()
@click.option(
    "--rate",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Megabytes to read in a second.",
)
@time_option
@click.option("--fix", is_flag=True, help="Fetch again what is missing or damaged.")
@click.option("--wait", is_flag=True, help="Wait for the end; Ctrl-C leaves it running.")
@json_option
@env_file
def verify(rate: int, since: datetime | None, *, fix: bool, wait: bool, as_json: bool) -> None:
    """Have workers read all that is stored, slowly, and tell whose bytes are not those that were stored.

    It goes on after a restart, from where it was. `holdfast reconcile show ID` tells how far it is, `holdfast reconcile
    cancel ID` ends it. With --wait, exits with 0 if all is as it was stored, or is being put right, 3 if something is
    not, 1 if it was ended before.
    """
    from service.reconcile.verify import begin

    run_id = with_resources(lambda res: begin(res, actor=actor(), rate=rate, since=since, fix=fix))
    if not with_engine(_has_worker):
        click.echo("No worker is there; it begins when one is.", err=True)
    is_whole = True
    if wait:
        _wait(run_id)
        is_whole = with_resources(lambda res: wait_for_repairs(res, run_id))
    run = print_run(run_id, as_json=as_json)
    sys.exit((outcome(run) if is_whole else 3) if wait else 0)


async def _has_worker(engine: "AsyncEngine") -> bool:
    from service.postgres.engine import connect
    from service.queries.workers import workers_of

    async with connect(engine) as conn:
        return any(worker.state == "alive" for worker in await workers_of(conn))


def _wait(run_id: int) -> None:
    try:
        with_engine(lambda engine: _watch(engine, run_id))
    except KeyboardInterrupt:
        click.echo(f"It goes on; `holdfast reconcile cancel {run_id}` ends it.", err=True)
        sys.exit(130)


async def _watch(engine: "AsyncEngine", run_id: int) -> None:
    import asyncio

    from service.errors import Transient
    from service.queries.reconciliations import get_reconciliation

    with progress("Verifying", 100) as tell:
        while True:
            try:
                run = await get_reconciliation(engine, run_id)
            except Transient as exc:
                tell(0, exc.message)
            else:
                tell(_share(run), f"{run.objects:,} objects, {run.bytes:,} bytes")
                if run.status != "running":
                    return
            await asyncio.sleep(LOOK_SECONDS)


def _share(run: "ReconciliationDetail") -> int:
    """Tell in hundredths how far it is: it goes by the hashes, which are spread evenly."""
    place = run.place or ""
    return 0 if ":" in place else int(f"{place:0<8}"[:8], 16) * 100 // 2**32
