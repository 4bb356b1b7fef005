"""`holdfast status`: whether everything is safe; `holdfast activity`: the actions of operators."""

import sys
import time
from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_engine
from service.cli.filters import collect
from service.cli.terminal import (
    Column,
    console,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
    shown_time,
    style,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.overview import Overview
    from service.queries.views import ActionView

CODES = {"safe": 0, "attention": 3, "late": 4}
WATCH_SECONDS = 2.0
ACTIVITY_COLUMNS = (Column("time", whole=True), Column("who"), Column("what", whole=True), Column("to"))


@click.command()
@click.option("--watch", is_flag=True, help="Repeat every two seconds, until Ctrl-C.")
@json_option
@env_file
def status(*, watch: bool, as_json: bool) -> None:
    """Show whether everything is safe, with counts and workers: the same verdict as the dashboard.

    Exits with 0 if all is safe, 3 if something needs attention (failed, quarantined, or its sync failed), 4 if something
    waits for too long, and 1 if the status is not known.
    """
    if watch:
        _watch(as_json=as_json)
    seen = with_engine(_look)
    if as_json:
        print_json(seen)
    else:
        _print_status(seen)
    sys.exit(CODES[seen.state])


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most to list.")
@json_option
@env_file
def activity(limit: int, *, as_json: bool) -> None:
    """List the actions of operators, newest first."""
    from service.queries.actions import list_actions
    from service.queries.pages import PageFilter

    page = with_engine(
        lambda engine: collect(lambda page: list_actions(engine, page), PageFilter(), limit, "actions")
    )
    if as_json:
        print_json(page)
        return
    rows = ((shown_time(each.at), each.actor, each.action, _object(each)) for each in page.actions)
    print_table(ACTIVITY_COLUMNS, rows)


async def _look(engine: "AsyncEngine") -> "Overview":
    from service.config.reading import read_settings
    from service.queries import overview

    return await overview.of(engine, read_settings())


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
                    _print_status(seen)
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        sys.exit(code)


def _print_status(seen: "Overview") -> None:
    from rich.text import Text

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
        print_facts([("worker", "none in the last 24 hours: start one with `holdfast worker`")])


def _syncs(seen: "Overview") -> "list[tuple[str, int]]":
    """Count syncs if there is a target, or if an earlier target left some."""
    counts = seen.by_sync_status
    is_shown = seen.has_target or any(counts.values())
    return [("sync_pending", counts["pending"]), ("sync_failed", counts["failed"])] if is_shown else []


def _times(seen: "Overview") -> "list[tuple[str, str | None]]":
    from service.formatting import duration

    def percentiles(half: float | None, most: float | None) -> str | None:
        return None if half is None or most is None else f"p50 {duration(half)}, p95 {duration(most)}"

    times, oldest = seen.times, seen.oldest_sync_seconds
    return [
        ("comparison", " ".join(seen.comparison.summary)),
        ("oldest sync", f"waiting for {duration(oldest)}" if oldest is not None else None),
        ("queued", percentiles(times.queue_p50, times.queue_p95)),
        ("processing", percentiles(times.processing_p50, times.processing_p95)),
    ]


def _object(action: "ActionView") -> str:
    ids = (
        ("e-mail", action.email_id),
        ("quarantine", action.quarantine_id),
        ("bulk retry", action.bulk_retry_id),
    )
    return ", ".join(f"{name} {number}" for name, number in ids if number is not None)
