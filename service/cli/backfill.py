"""`holdfast backfill`: search Zendesk for e-mails that no webhook announced, and wait for the end."""

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from service.cli.environment import actor, env_file, going_on, warn_without_worker, with_resources
from service.cli.terminal import json_option, print_json, print_line, progress
from service.cli.times import TIME, TIME_HELP, shown_time
from service.formatting import counted

if TYPE_CHECKING:
    from service.backfill.record import RunState
    from service.resources import Resources

POLL_SECONDS = 0.5


@click.command()
@click.option("--since", type=TIME, help=f"Begin here, {TIME_HELP}.")
@click.option("--until", type=TIME, help="End here; without it, now.")
@click.option("--dry-run", is_flag=True, help="Only count; record no e-mail.")
@json_option
@env_file
def backfill(since: datetime | None, until: datetime | None, *, dry_run: bool, as_json: bool) -> None:
    """Keep e-mails of Zendesk that no webhook announced.

    Without a time, the search goes on from where the last one ended, as workers do every BACKFILL_MINUTES. Workers help;
    without one, this command does all. After Ctrl-C or a crash, workers or the same command go on.

    Exits with 0 when all was searched, 3 if the search ended with an error, 1 if it could not begin.
    """
    if until is not None and (since is None or until <= since):
        raise click.UsageError("--until needs an earlier --since.")

    async def work(res: "Resources") -> "RunState":
        from service.backfill.record import History
        from service.backfill.requests import begin

        wanted = History(since, until, dry_run) if since or dry_run else None
        run_id = await begin(res, wanted, actor())
        if not (dry_run or as_json):
            await warn_without_worker(res.engine)
        with progress("Searching Zendesk") as show_progress:
            return await _follow(res, run_id, show_progress, is_quiet=as_json)

    with going_on("A search that has begun is on record: workers go on with it, or the same command."):
        state = with_resources(work)
    if as_json:
        print_json(_view(state, dry_run=dry_run))
    else:
        print_line(_summary(state, dry_run=dry_run))
    sys.exit(3 if state.error_code else 0)


async def _follow(
    res: "Resources", run_id: int, show_progress: Callable[[int, str], None], *, is_quiet: bool
) -> "RunState":
    """Take steps, or wait for those of workers, until the run has ended; print each change in a pipe."""
    import asyncio

    from service.backfill.requests import state_of
    from service.backfill.run import step
    from service.errors import Transient

    shown = None
    while True:
        state = await state_of(res, run_id)
        if state.is_finished:
            return state
        if state != shown:
            show_progress(state.found, _note(state))
            if not (is_quiet or sys.stderr.isatty()):
                click.echo(f"{counted(state.found, 'e-mail')} found, {_note(state)}", err=True)
        shown = state
        try:
            is_done = await step(res)
        except Transient:  # Postgres is away: the next look tells whether it stays away
            is_done = False
        if not is_done:
            await asyncio.sleep(POLL_SECONDS)


def _note(state: "RunState") -> str:
    waiting = f", {counted(state.waiting, 'ticket')} to read" if state.waiting else ""
    reached = f", reached {shown_time(state.reached)}" if state.reached else ""
    return f"{state.added:,} new, {counted(state.calls, 'call')}, by {state.leg}{reached}{waiting}"


def _summary(state: "RunState", *, dry_run: bool) -> str:
    since = shown_time(state.since)
    until = shown_time(state.until) if state.until else "now"
    new = "would be new" if dry_run else "new"
    ended = f"The search ended with the error {state.error_code}. " if state.error_code else ""
    found = f"{counted(state.found, 'e-mail')} in Zendesk from {since} until {until}"
    left_out = ""
    if state.left_out:
        behind = f"{state.left_out - timedelta(seconds=1):%Y-%m-%d %H:%M:%S} UTC"
        left_out = (
            f" Of the second {behind}, Zendesk's export gave only a part: the search is complete behind it."
        )
    return f"{ended}{found}, {state.added:,} of them {new}; {counted(state.calls, 'call')}.{left_out}"


def _view(state: "RunState", *, dry_run: bool) -> dict[str, object]:
    times = {
        name: time.isoformat() if time else None
        for name, time in (
            ("since", state.since),
            ("until", state.until),
            ("reached", state.reached),
            ("left_out", state.left_out),
        )
    }
    names = ("leg", "found", "added", "calls", "error_code")
    return {**times, **{name: getattr(state, name) for name in names}, "dry_run": dry_run}
