"""Run all again that match: say first how many, ask, begin, and wait for what becomes of them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from service.cli.environment import actor, with_engine, with_resources
from service.cli.terminal import json_option, print_json, print_line, progress

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.postgres.selection import Selection, What
    from service.queries.retries import BulkRetryView

LOOK_SECONDS = 0.5
# Postgres is asked again for so long, in seconds.
AWAY_SECONDS = 300.0
_ENDS = {"job": "repaired", "sync": "synced"}

_OPTIONS = (
    click.option(
        "--per-second", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many to queue."
    ),
    click.option("--dry-run", is_flag=True, help="Only say how many match."),
    click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal."),
    click.option("--wait", is_flag=True, help="Wait until none is running; Ctrl-C leaves it running."),
    json_option,
)


@dataclass(frozen=True)
class Way:
    """How to go about it."""

    per_second: int
    dry_run: bool
    yes: bool
    wait: bool
    as_json: bool


def bulk_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a `Way`; it gets them as one."""

    @wraps(command)
    def run(**typed: Any) -> None:  # noqa: ANN401 whatever its other options are
        way = Way(**{field.name: typed.pop(field.name) for field in fields(Way)})
        command(way=way, **typed)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def retry_all(wanted: "Selection", way: Way, what: "What" = "job") -> None:
    """Plan, ask, begin; where it waits, it ends the process as `end` does."""
    from service.operate import bulk_retry
    from service.queries.retries import get_retry

    if not (way.dry_run or way.yes or sys.stdin.isatty()):
        raise click.UsageError("Nobody can be asked here: add --yes, or --dry-run.")
    matching = with_resources(lambda res: bulk_retry.plan(res, wanted, what))
    if way.as_json and way.dry_run:
        print_json({"matching": matching.number, "capped": matching.is_capped})
    else:
        _tell(matching.number, way.per_second, is_capped=matching.is_capped)
    # Of very many only the newest were looked at: further back there may be some.
    if way.dry_run or not (matching.number or matching.is_capped):
        return
    if not way.yes:
        click.confirm("Sync them again?" if what == "sync" else "Run them again?", abort=True, err=True)
    retry_id = with_resources(lambda res: bulk_retry.start(res, wanted, way.per_second, actor(), what))
    if way.wait:
        wait(retry_id)
    seen = with_engine(lambda engine: get_retry(engine, retry_id))
    print_json(seen) if way.as_json else print_retry(seen)
    if way.wait:
        end(seen)


def wait(retry_id: int) -> None:
    """Wait until none of its e-mails is queued or running; Ctrl-C ends the waiting alone."""
    try:
        with_engine(lambda engine: _watch(engine, retry_id))
    except KeyboardInterrupt:
        click.echo(f"`holdfast retries wait {retry_id}` waits again.", err=True)
        click.echo(f"It goes on; `holdfast retries cancel {retry_id}` ends it.", err=True)
        sys.exit(130)


def end(seen: "BulkRetryView") -> None:
    """End the process: 0 if all are repaired, 3 if some failed again, 1 if that is not known of all."""
    if seen.status == "cancelled":
        sys.exit(1)
    if seen.failed_again:
        sys.exit(3)
    sys.exit(1 if seen.superseded or not seen.settled_at else 0)


def outcomes(seen: "BulkRetryView") -> str:
    """Say what became of the e-mails of a retry of many."""
    counts = [
        (seen.repaired, _ENDS[seen.what]),
        (seen.failed_again, "failed again"),
        (seen.still_running, "still running"),
    ]
    said = [f"{count:,} {name}" for count, name in counts]
    return ", ".join([*said, f"{seen.superseded:,} retried again by another"] if seen.superseded else said)


def print_retry(seen: "BulkRetryView") -> None:
    """Print how far a retry of many has come, and what became of the e-mails."""
    of = f"of {seen.planned:,}{'+' if seen.planned_capped else ''}"
    of_what = "Sync" if seen.what == "sync" else "Retry"
    print_line(f"{of_what} of many {seen.id}", "is", f"{seen.status}", f"with {seen.retried:,} {of} queued")
    click.echo(f"{outcomes(seen)}.")
    if seen.status == "running":
        click.echo(
            f"`holdfast retries wait {seen.id}` waits for the rest, `holdfast retries cancel {seen.id}` ends it."
        )


def _tell(number: int, per_second: int, *, is_capped: bool) -> None:
    from service.formatting import duration

    count = f"{number:,}{' or more' if is_capped else ''}"
    match = "matches" if number == 1 else "match"
    takes = f"; at {per_second} a second that takes {duration(max(1, number / per_second))}" if number else ""
    click.echo(f"{count} {match}{takes}.", err=True)


async def _watch(engine: "AsyncEngine", retry_id: int) -> None:
    """Return when it is settled; raises Transient if Postgres stays away."""
    import asyncio
    import time

    from service.errors import Transient
    from service.queries.retries import get_retry

    answered, warned, began = time.monotonic(), False, await get_retry(engine, retry_id)
    with progress("Ended", began.planned) as tell:
        while True:
            try:
                seen = await get_retry(engine, retry_id)
                if seen.settled_at:
                    return
                warned = warned or await _warn_without_worker(engine)
            except Transient as exc:
                if time.monotonic() - answered > AWAY_SECONDS:
                    raise
                tell(0, exc.message)
            else:
                answered = time.monotonic()
                tell(seen.retried - seen.still_running, f"{seen.retried:,} queued: {outcomes(seen)}")
            await asyncio.sleep(LOOK_SECONDS)


async def _warn_without_worker(engine: "AsyncEngine") -> bool:
    """Say that nothing goes on where no worker is alive; return whether that was said."""
    from service.postgres.engine import connect
    from service.queries.workers import workers_of

    async with connect(engine) as conn:
        is_alive = any(worker.state == "alive" for worker in await workers_of(conn))
    if not is_alive:
        click.echo("No worker is alive: the retry goes on when one is started.", err=True)
    return not is_alive
