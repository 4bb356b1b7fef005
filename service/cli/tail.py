"""`holdfast tail`: watch e-mails come and change, live."""

import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from service.cli.environment import env_file, with_engine
from service.cli.filters import filters, selection
from service.cli.terminal import json_option, print_json, print_line, shown_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.postgres.selection import Selection
    from service.queries.changes import Change

PAUSE_SECONDS = 1.0
MOST_KNOWN = 20_000
FINISHED = {"completed", "failed"}


class Stand(NamedTuple):
    """What makes a line of its own when it changes; `sync` is how it ended."""

    status: str
    attempt_number: int
    retry_count: int
    sync: str
    is_over: bool  # and does not change by itself

    @property
    def job(self) -> tuple[object, ...]:
        return self[:3]


class Line(NamedTuple):
    """What is printed of a change, and of which time it is."""

    at: "datetime"
    change: "Change"
    words: "Sequence[str]"


@click.command()
@filters()
@click.option(
    "--last", type=click.IntRange(0, 500), default=10, show_default=True, help="How many to begin with."
)
@json_option
@env_file
def tail(last: int, *, as_json: bool, **chosen: str | None) -> None:
    """Print e-mails as they come and as they change, until Ctrl-C; --json prints a line of JSON for each.

    It looks once a second, so of a state that lasts less it may show nothing; it goes on while Postgres is away.
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

    seen: dict[int, Stand] | None = None
    is_away = False
    while True:
        watched = [email_id for email_id, stand in (seen or {}).items() if not stand.is_over]
        try:
            changes = await list_changes(engine, wanted, watched)
        except Transient as exc:
            if not is_away:
                click.echo(f"{exc.message}; still trying.", err=True)
            is_away = True
        else:
            if is_away:
                click.echo("Postgres is back.", err=True)
            is_away = False
            now = {change.id: _stand(change) for change in changes}
            before = seen or {}
            lines = [
                line
                for each in changes
                if each.matches and (line := _line(each, before.get(each.id), now[each.id]))
            ]
            _print(
                lines if seen is not None else lines[len(lines) - min(last, len(lines)) :], as_json=as_json
            )
            # Of a long queue each look sees another part.
            known = {**{email_id: stand for email_id, stand in before.items() if email_id not in now}, **now}
            seen = dict(list(known.items())[-MOST_KNOWN:])
        await asyncio.sleep(PAUSE_SECONDS)


def _stand(change: "Change") -> Stand:
    is_finished = change.processing_status in FINISHED
    sync = change.sync_status if is_finished and change.sync_status in {"synced", "failed"} else ""
    is_over = is_finished and change.sync_status != "pending"
    return Stand(change.processing_status, change.attempt_number, change.retry_count, sync, is_over)


def _line(change: "Change", before: Stand | None, now: Stand) -> "Line | None":
    """Say what is new of an e-mail: of its job, with the sync that ended meanwhile, or of its sync alone."""
    if before is not None and before.job == now.job:
        if not now.sync or before.sync == now.sync:
            return None
        at = change.synced_at if now.sync == "synced" and change.synced_at else change.sync_due_at
        return Line(at, change, _of_sync(change, now.sync))
    words = [change.processing_status, change.error_code or "", change.processing_error or ""]
    return Line(change.at, change, [*filter(None, words), *_of_sync(change, now.sync)])


def _of_sync(change: "Change", sync: str) -> list[str]:
    if sync != "failed":
        return [sync] if sync else []
    return ["not synced", *(word for word in (change.sync_error_code, change.sync_error) if word)]


def _print(lines: "Iterable[Line]", *, as_json: bool) -> None:
    for each in sorted(lines, key=lambda each: each.at):
        if as_json:
            print_json(each.change, indent=None)
        else:
            ticket = f"ticket {each.change.zendesk_ticket_id}"
            print_line(shown_time(each.at), each.change.id, ticket, *each.words)
    sys.stdout.flush()
