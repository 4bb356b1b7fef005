"""`holdfast status`: tell whether everything is safe."""

import sys
import time
from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_engine
from service.cli.terminal import Column, json_option, print_facts, print_json, print_line, print_table

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.overview import Overview

CODES = {"safe": 0, "attention": 3, "late": 4}
WATCH_SECONDS = 2.0


@click.command()
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@json_option
@env_file
def status(*, watch: bool, as_json: bool) -> None:
    """Tell whether everything is safe, and what is there: the same verdict as the dashboard.

    Exits with 0 if all is safe, 3 if something needs you (it failed, is in quarantine or could not be synced), 4 if something
    waits for too long, and 1 if that could not be found out.
    """
    if watch:
        _watch(as_json=as_json)
    seen = with_engine(_look)
    if as_json:
        print_json(seen)
    else:
        _print(seen)
    sys.exit(CODES[seen.state])


async def _look(engine: "AsyncEngine") -> "Overview":
    from service.config.reading import read_settings
    from service.queries import overview

    return await overview.summarize(engine, read_settings())


def _watch(*, as_json: bool) -> None:
    async def look(engine: "AsyncEngine") -> "Overview | None":
        from service.errors import Transient

        try:
            return await _look(engine)
        except Transient as exc:
            click.echo(exc.message, err=True)
            return None

    code = 1
    try:
        while True:
            if seen := with_engine(look):
                code = CODES[seen.state]
                if as_json:
                    print_json(seen, indent=None)
                else:
                    click.clear()
                    _print(seen)
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        sys.exit(code)


def _print(seen: "Overview") -> None:
    from rich.text import Text

    from service.cli.terminal import console, shown_time, style

    console().print(Text(seen.verdict, style(seen.state)), soft_wrap=True)
    click.echo()
    counts = [*seen.by_status.items(), ("quarantined", seen.quarantined), *_syncs(seen)]
    rows = (
        (name.replace("_", " "), f"{number:,}{'+' if name in seen.capped else ''}") for name, number in counts
    )
    print_table([Column("state"), Column("e-mails")], rows)
    click.echo()
    print_facts(_times(seen))
    for worker in seen.workers:
        about = f"{worker.jobs} jobs, seen {shown_time(worker.seen_at)}, version {worker.version}"
        print_line(f"{'worker:':<14}", worker.name, f"({worker.pid})", worker.state, about)
    if not seen.workers:
        print_facts([("worker", "none was heard of in the last 24 hours")])


def _syncs(seen: "Overview") -> "list[tuple[str, int]]":
    """Count syncs where there is a target, or something is left from when there was one."""
    counts = seen.by_sync_status
    is_told = seen.has_target or any(counts.values())
    return [("sync_pending", counts["pending"]), ("sync_failed", counts["failed"])] if is_told else []


def _times(seen: "Overview") -> "list[tuple[str, str | None]]":
    from service.formatting import duration

    def both(half: float | None, most: float | None) -> str | None:
        return None if half is None or most is None else f"p50 {duration(half)}, p95 {duration(most)}"

    times, oldest = seen.times, seen.oldest_sync_seconds
    return [
        ("comparison", " ".join(seen.comparison.summary)),
        ("to be synced", f"for {duration(oldest)} at most" if oldest is not None else None),
        ("in the queue", both(times.queue_p50, times.queue_p95)),
        ("in work", both(times.processing_p50, times.processing_p95)),
    ]
