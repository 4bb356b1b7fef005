"""`holdfast tail`: print e-mails as they arrive and change, live."""

import sys
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.filters import filters, selection
from service.cli.terminal import json_option, print_json, print_line
from service.cli.times import shown_time
from service.formatting import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from service.cli.backends.port import Backend
    from service.postgres.selection import Selection
    from service.queries.changes import Change

L = TypeVar("L")
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
@anywhere
def tail(last: int, *, as_json: bool, **chosen: str | bool | None) -> None:
    """Print e-mails as they arrive and change, until Ctrl-C.

    With --json, every change is one line of JSON. Holdfast is read once a second, so a shorter state may not show. The command outlives outages.
    """
    from service.postgres.selection import Selection

    wanted = selection(Selection, chosen)

    async def follow(backend: "Backend") -> None:
        emails = FollowedEmails(backend, wanted)

        async def news() -> "list[Line]":
            is_first = emails.seen is None
            lines = await emails.news()
            return lines[len(lines) - min(last, len(lines)) :] if is_first else lines

        await repeat(backend, news, lambda lines: _print(lines, as_json=as_json))

    follow_until_interrupt(follow)


def follow_until_interrupt(work: "Callable[[Backend], Awaitable[None]]") -> None:
    """Run work that does not end by itself; after Ctrl-C, exit with 0."""
    try:
        with_backend(work)
    except KeyboardInterrupt:
        sys.exit(0)


async def repeat(
    backend: "Backend", read: "Callable[[], Awaitable[list[L]]]", show: "Callable[[list[L]], None]"
) -> None:
    """Read news once a second and show them, for ever; say on stderr when the other side is away and back."""
    import asyncio

    from service.errors import Transient

    is_down = False
    while True:
        try:
            lines = await read()
        except Transient as exc:
            if not is_down:
                click.echo(f"{printable(exc.message).rstrip('.')}; still trying.", err=True)
            is_down = True
        else:
            if is_down:
                click.echo(f"{backend.name} is back.", err=True)
            is_down = False
            show(lines)
            sys.stdout.flush()
        await asyncio.sleep(PAUSE_SECONDS)


class FollowedEmails:
    """The last known states of e-mails; each reading returns their changes since the one before."""

    def __init__(self, backend: "Backend", wanted: "Selection") -> None:
        self._backend = backend
        self._wanted = wanted
        self.seen: dict[int, EmailState] | None = None

    async def news(self) -> "list[Line]":
        """Return the changes, lowest id first; at first all that there is. Raises Transient."""
        before = self.seen or {}
        watched = [email_id for email_id, state in before.items() if not state.is_over]
        changes = (await self._backend.changes(self._wanted, watched)).changes
        now = {change.id: _state(change) for change in changes}
        # Of a long queue, each query returns another part.
        known = {**{email_id: state for email_id, state in before.items() if email_id not in now}, **now}
        self.seen = dict(list(known.items())[-MOST_KNOWN:])
        return [
            line
            for each in changes
            if each.matches and (line := _line(each, before.get(each.id), now[each.id]))
        ]


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
            print_json(as_answer(each.change), indent=None)
        else:
            print_line(shown_time(each.at), each.change.id, *about(each.change), *each.words)


def about(change: "Change") -> list[str]:
    """Describe an e-mail: its ticket, its sender, its subject."""
    subject = change.subject and f'"{change.subject}"'
    return [word for word in (f"ticket {change.zendesk_ticket_id}", change.from_email, subject) if word]


def as_answer(change: "Change") -> dict[str, object]:
    return change.model_dump(mode="json", exclude={"matches"})
