"""`holdfast tail`: print e-mails as they arrive and change, live."""

import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from service.cli.environment import env_file, with_engine
from service.cli.filters import filters, selection
from service.cli.terminal import json_option, print_json, print_line
from service.cli.times import shown_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.postgres.selection import Selection
    from service.queries.changes import Change

PAUSE_SECONDS = 1.0
MOST_KNOWN = 20_000
FINISHED = {"completed", "failed"}


class EmailState(NamedTuple):
    """The state of an e-mail; a change of it is a line. `sync` is "" until the sync has ended."""

    status: str
    attempt_number: int
    retry_count: int
    sync: str
    is_over: bool  # job and sync have ended

    @property
    def job(self) -> tuple[object, ...]:
        return self[:3]


class Line(NamedTuple):
    """A line to print, and the time of the change."""

    at: "datetime"
    change: "Change"
    words: "Sequence[str]"


@click.command()
@filters()
@click.option(
    "--last",
    type=click.IntRange(0, 500),
    default=10,
    show_default=True,
    help="E-mails to print at the start.",
)
@json_option
@env_file
def tail(last: int, *, as_json: bool, **chosen: str | bool | None) -> None:
    """Print e-mails as they arrive and change, until Ctrl-C.

    With --json, every change is one line of JSON. Postgres is read once a second, so a shorter state may not show. The command outlives outages of Postgres.
    """
    from service.postgres.selection import Selection

    wanted = selection(Selection, chosen)
    try:
        with_engine(lambda engine: _follow(engine, wanted, last, as_json=as_json))
    except KeyboardInterrupt:
        sys.exit(0)


async def _follow(engine: "AsyncEngine", wanted: "Selection", last: int, *, as_json: bool) -> None:
    import asyncio

    from service.errors import Transient
    from service.queries.changes import list_changes

    seen: dict[int, EmailState] | None = None
    is_down = False
    while True:
        watched = [email_id for email_id, state in (seen or {}).items() if not state.is_over]
        try:
            changes = await list_changes(engine, wanted, watched)
        except Transient as exc:
            if not is_down:
                click.echo(f"{exc.message}; still trying.", err=True)
            is_down = True
        else:
            if is_down:
                click.echo("Postgres is back.", err=True)
            is_down = False
            now = {change.id: _state(change) for change in changes}
            before = seen or {}
            lines = [
                line
                for each in changes
                if each.matches and (line := _line(each, before.get(each.id), now[each.id]))
            ]
            _print(
                lines if seen is not None else lines[len(lines) - min(last, len(lines)) :], as_json=as_json
            )
            # Of a long queue, each query returns another part.
            known = {**{email_id: state for email_id, state in before.items() if email_id not in now}, **now}
            seen = dict(list(known.items())[-MOST_KNOWN:])
        await asyncio.sleep(PAUSE_SECONDS)


def _state(change: "Change") -> EmailState:
    is_finished = change.processing_status in FINISHED
    sync = change.sync_status if is_finished and change.sync_status in {"synced", "failed"} else ""
    is_over = is_finished and change.sync_status != "pending"
    return EmailState(change.processing_status, change.attempt_number, change.retry_count, sync, is_over)


def _line(change: "Change", before: EmailState | None, now: EmailState) -> "Line | None":
    """Describe the change of a job, with the sync if that has ended too, or the change of a sync alone."""
    if before is not None and before.job == now.job:
        if not now.sync or before.sync == now.sync:
            return None
        at = change.synced_at if now.sync == "synced" and change.synced_at else change.sync_due_at
        return Line(at, change, _sync_words(change, now.sync))
    words = [change.processing_status, change.error_code or "", change.processing_error or ""]
    return Line(change.at, change, [*filter(None, words), *_sync_words(change, now.sync)])


def _sync_words(change: "Change", sync: str) -> list[str]:
    if sync != "failed":
        return [sync] if sync else []
    return ["not synced", *(word for word in (change.sync_error_code, change.sync_error) if word)]


def _print(lines: "Iterable[Line]", *, as_json: bool) -> None:
    for each in sorted(lines, key=lambda each: each.at):
        if as_json:
            print_json(each.change, indent=None)
        else:
            change = each.change
            known = [
                f"ticket {change.zendesk_ticket_id}",
                change.from_email,
                change.subject and f'"{change.subject}"',
            ]
            print_line(shown_time(each.at), change.id, *filter(None, known), *each.words)
    sys.stdout.flush()
