"""`holdfast status`: whether everything is safe; `holdfast activity`: the actions of operators."""

import sys
import time
from typing import TYPE_CHECKING

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.filters import collect
from service.cli.terminal import (
    Column,
    console,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
    style,
)
from service.cli.times import shown_time
from service.formatting import duration, number

if TYPE_CHECKING:
    from service.cli.backends.port import Backend
    from service.queries.overview import Overview
    from service.queries.views import ActionView

CODES = {"safe": 0, "attention": 3, "late": 4}
WATCH_SECONDS = 2.0
_DISMISSED = ("dismissed", "dismissed_webhooks")
ACTIVITY_COLUMNS = (
    Column("time", whole=True),
    Column("who"),
    Column("what", whole=True),
    Column("to"),
)


@click.command()
@click.option("--watch", is_flag=True, help="Repeat every two seconds, until Ctrl-C.")
@json_option
@anywhere
def status(*, watch: bool, as_json: bool) -> None:
    """Show whether everything is safe.

    The verdict is that of the dashboard; counts, times and workers follow.

    Exits with 0 if all is safe, 3 if something needs attention (failed, quarantined, or its sync failed, and not
    dismissed), 4 if something
    waits for too long, and 1 if the status is not known.
    """
    if watch:
        _watch(as_json=as_json)
    overview = with_backend(lambda backend: backend.overview())
    if as_json:
        print_json(overview)
    else:
        _print_status(overview)
    sys.exit(CODES[overview.state])


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most to list.")
@json_option
@anywhere
def activity(limit: int, *, as_json: bool) -> None:
    """List the actions of operators, newest first."""
    from service.queries.pages import PageFilter

    page = with_backend(lambda backend: collect(backend.actions, PageFilter(), limit, "actions"))
    rows = ((shown_time(each.at), each.actor, each.action, _object(each)) for each in page.actions)
    print_json(page) if as_json else print_table(ACTIVITY_COLUMNS, rows)


def _watch(*, as_json: bool) -> None:
    async def read_or_complain(backend: "Backend") -> "Overview | None":
        from service.errors import Transient

        try:
            return await backend.overview()
        except Transient as exc:
            click.echo(exc.message, err=True)
            return None

    code = 1
    try:
        while True:
            if overview := with_backend(read_or_complain):
                code = CODES[overview.state]
                if as_json:
                    print_json(overview, indent=None)
                else:
                    click.clear()
                    _print_status(overview)
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        sys.exit(code)


def _print_status(overview: "Overview") -> None:
    from rich.text import Text

    console().print(Text(overview.verdict, style(overview.state)), soft_wrap=True)
    click.echo()
    counts = [*overview.by_status.items(), ("quarantined", overview.quarantined), *_syncs(overview)]
    counts += [(name, getattr(overview, name)) for name in _DISMISSED if getattr(overview, name)]
    rows = ((name.replace("_", " "), number(count, name in overview.capped)) for name, count in counts)
    print_table([Column("state"), Column("e-mails")], rows)
    click.echo()
    print_facts(_times(overview))
    for worker in overview.workers:
        about = f"{worker.jobs} jobs, seen {shown_time(worker.seen_at)}, version {worker.version}"
        print_line(f"{'worker:':<14}", worker.name, f"({worker.pid})", worker.state, about)
    if not overview.workers:
        print_facts([("worker", "none in the last 24 hours: start one with `holdfast worker`")])


def _syncs(overview: "Overview") -> "list[tuple[str, int]]":
    """Count syncs if there is a target, or if an earlier target left some."""
    counts = overview.by_sync_status
    is_shown = overview.has_target or any(counts.values())
    return [("sync_pending", counts["pending"]), ("sync_failed", counts["failed"])] if is_shown else []


def _times(overview: "Overview") -> "list[tuple[str, str | None]]":
    def percentiles(half: float | None, most: float | None) -> str | None:
        return None if half is None or most is None else f"p50 {duration(half)}, p95 {duration(most)}"

    times, oldest = overview.times, overview.oldest_sync_seconds
    return [
        ("comparison", " ".join(overview.comparison.summary)),
        ("evidence", overview.evidence),
        ("oldest sync", f"waiting for {duration(oldest)}" if oldest is not None else None),
        ("calls", overview.api_use.sentence if overview.api_use else None),
        ("queued", percentiles(times.queue_p50, times.queue_p95)),
        ("processing", percentiles(times.processing_p50, times.processing_p95)),
    ]


def _object(action: "ActionView") -> str:
    ids = (
        ("e-mail", action.email_id),
        ("quarantine", action.quarantine_id),
        ("finding", action.finding_id),
        ("bulk retry", action.bulk_retry_id),
    )
    what = ", ".join(f"{name} {id_}" for name, id_ in ids if id_ is not None) or action.subject or ""
    return f"{what}: {action.reason}" if action.reason else what
