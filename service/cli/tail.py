"""`holdfast tail`: watch e-mails come and change, live."""

import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from service.cli.environment import env_file, with_engine
from service.cli.filters import filters, selection
from service.cli.terminal import json_option, print_json, print_line, shown_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.changes import Change
    from service.selection import Selection

PAUSE_SECONDS = 1.0
MOST_KNOWN = 20_000
FINISHED = {"completed", "failed"}


class Stand(NamedTuple):
    """What makes a line of its own when it changes."""

    status: str
    attempt_number: int
    retry_count: int


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
    from service.selection import Selection

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
        watched = [email_id for email_id, stand in (seen or {}).items() if stand.status not in FINISHED]
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
            new = [each for each in changes if each.matches and before.get(each.id) != now[each.id]]
            _print(new if seen is not None else new[len(new) - min(last, len(new)) :], as_json=as_json)
            # Of a long queue each look sees another part.
            known = {**{email_id: before[email_id] for email_id in before.keys() - now.keys()}, **now}
            seen = dict(list(known.items())[-MOST_KNOWN:])
        await asyncio.sleep(PAUSE_SECONDS)


def _stand(change: "Change") -> Stand:
    return Stand(change.processing_status, change.attempt_number, change.retry_count)


def _print(changes: "Iterable[Change]", *, as_json: bool) -> None:
    for each in sorted(changes, key=lambda each: each.at):
        if as_json:
            print_json(each, indent=None)
            continue
        reason = " ".join(word for word in (each.error_code, each.processing_error) if word)
        print_line(
            shown_time(each.at), each.id, f"ticket {each.zendesk_ticket_id}", each.processing_status, reason
        )
    sys.stdout.flush()
