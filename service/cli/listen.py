"""`holdfast listen`: print every webhook as it comes in, and what became of it."""

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from service.cli.backends.choice import anywhere
from service.cli.tail import FollowedEmails, about, as_answer, follow_until_interrupt, repeat
from service.cli.terminal import json_option, print_json, print_line
from service.cli.times import shown_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from service.cli.backends.port import Backend
    from service.cli.tail import Line
    from service.queries.arrivals import ArrivalView, BadSignaturesView

MOST_KNOWN = 5_000
# In these states, an e-mail has only arrived.
NOT_BEGUN = {"received", "queued"}
_OUTCOMES = {
    "email": "webhook: new e-mail",
    "announcement": "webhook: further one about e-mail",
    "quarantined": "webhook: in quarantine as",
    "ignored": "webhook: ignored as event",
}


class Entry(NamedTuple):
    """A line to print: a webhook, or a change of an e-mail."""

    at: datetime
    words: "Sequence[object]"
    data: dict[str, object]


@click.command()
@json_option
@anywhere
def listen(*, as_json: bool) -> None:
    """Print webhooks as they come in, and what became of them.

    Unlike `tail`, it also shows further webhooks about an e-mail, those in quarantine, ignored and refused ones. Refused
    ones have no valid signature: they are counted, and not kept. It begins with what comes from now on.
    """

    async def work(backend: "Backend") -> None:
        feed = Feed(backend)
        is_told = False

        def show(entries: list[Entry]) -> None:
            nonlocal is_told
            if not is_told:
                click.echo("Listening; Ctrl-C ends.", err=True)
                is_told = True
            _print(entries, as_json=as_json)

        await repeat(backend, feed.news, show)

    follow_until_interrupt(work)


class Feed:
    """The webhooks and the changes of e-mails, each once."""

    def __init__(self, backend: "Backend") -> None:
        from service.postgres.selection import Selection

        self._backend = backend
        self._emails = FollowedEmails(backend, Selection())
        self._known: dict[tuple[str, int], None] | None = None
        self._refused = 0

    async def news(self) -> list[Entry]:
        """Return the new entries, oldest first; the first call returns none. Raises Transient."""
        is_first = self._known is None
        # In this order, no change of an e-mail is read before its arrival.
        lines = await self._emails.news()
        page = await self._backend.arrivals()
        entries = [_arrival(each) for each in page.arrivals if self._is_new(each)]
        if page.refused and page.refused.count > self._refused:
            entries.append(_refusal(page.refused))
        self._refused = page.refused.count if page.refused else 0
        self._known = dict(list((self._known or {}).items())[-MOST_KNOWN:])
        entries += [_change(line) for line in lines if not _has_only_arrived(line)]
        return [] if is_first else sorted(entries, key=lambda each: each.at)

    def _is_new(self, arrival: "ArrivalView") -> bool:
        known = self._known = self._known or {}
        is_new = (arrival.kind, arrival.id) not in known
        known[arrival.kind, arrival.id] = None
        return is_new


def _has_only_arrived(line: "Line") -> bool:
    return line.change.processing_status in NOT_BEGUN and line.change.attempt_number == 0


def _arrival(arrival: "ArrivalView") -> Entry:
    number = arrival.email_id if arrival.kind == "announcement" else arrival.id
    ticket = f"of ticket {arrival.zendesk_ticket_id}" if arrival.zendesk_ticket_id else ""
    subject = f'"{arrival.subject}"' if arrival.subject else ""
    words = [_OUTCOMES[arrival.kind], number, ticket, subject, arrival.reason or ""]
    return Entry(arrival.at, words, {"webhook": _json(arrival)})


def _refusal(refused: "BadSignaturesView") -> Entry:
    words = ["webhook: refused for its signature,", refused.count, "in a row", refused.code or ""]
    return Entry(refused.at, words, {"refused": _json(refused)})


def _change(line: "Line") -> Entry:
    words = ["e-mail", line.change.id, *about(line.change), *line.words]
    return Entry(line.at, words, {"email": as_answer(line.change)})


def _json(view: "BaseModel") -> object:
    return view.model_dump(mode="json")


def _print(entries: list[Entry], *, as_json: bool) -> None:
    for each in entries:
        if as_json:
            print_json(each.data, indent=None)
        else:
            print_line(shown_time(each.at), *each.words)
