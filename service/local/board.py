"""Show e-mails and the states they went through: a live table on a terminal, lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_PATH = ("received", "queued", "processing", "completed")
_ENDS = ("completed", "failed")
_WIDE_COLUMNS = 96  # below that the whole path has no room

Email = Mapping[str, Any]  # as the API shows it


class Board(Protocol):
    """Where the demo shows what happens."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, emails: Sequence[Email]) -> None:
        """Show these e-mails as they are now."""

    def note(self, text: str) -> None:
        """Tell about something beside the states."""


def open_board(console: Console, expected: int) -> Board:
    """Choose how to show: repainting needs a terminal that can."""
    return (
        _Table(console, expected) if console.is_terminal and not console.is_dumb_terminal else _Lines(console)
    )


def is_over(email: Email) -> bool:
    return email["processing_status"] in _ENDS


def stored(email: Email) -> int:
    return sum(file["status"] == "stored" for file in email["attachments"])


class _Table:
    """A row an e-mail, repainted in place."""

    def __init__(self, console: Console, expected: int) -> None:
        self._expected = expected
        self._since: dict[int, float] = {}
        self._emails: Sequence[Email] = ()
        self._notes: list[str] = []
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, emails: Sequence[Email]) -> None:
        self._emails = emails
        for email in emails:
            self._since.setdefault(email["id"], time.monotonic())
        self._paint()

    def note(self, text: str) -> None:
        self._notes = [*self._notes, text][-3:]
        self._paint()

    def _paint(self) -> None:
        wide = self._console.width >= _WIDE_COLUMNS
        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim", expand=True)
        table.add_column("#", justify="right")
        table.add_column("ticket")
        table.add_column("subject", ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
        table.add_column("files", justify="right")
        table.add_column("state", no_wrap=True)
        table.add_column("time", justify="right", min_width=6)
        table.add_column("retries", justify="right")
        for email in self._emails:
            table.add_row(*self._row(email, wide=wide))
        notes = [Text(f"• {note}", style="yellow") for note in self._notes]
        self._live.update(Group(table, Text(), self._totals(), *notes), refresh=True)

    def _row(self, email: Email, *, wide: bool) -> tuple[str | Text, ...]:
        files = f"{stored(email)}/{len(email['attachments'])}"
        retries = Text(str(email["retry_count"] or ""), style="yellow")
        return (
            str(email["id"]),
            email["zendesk_ticket_id"],
            Text(email["subject"] or ""),
            files,
            _path(email) if wide else Text(email["processing_status"], _style(email, now=True)),
            f"{self._seconds(email):.1f} s",
            retries,
        )

    def _seconds(self, email: Email) -> float:
        if is_over(email):
            return float((email["queue_seconds"] or 0) + (email["processing_seconds"] or 0))
        return time.monotonic() - self._since[email["id"]]

    def _totals(self) -> Text:
        counts = dict.fromkeys((*_PATH, "failed"), 0)
        for email in self._emails:
            counts[email["processing_status"]] += 1
        parts = [f"{counts['completed']} of {self._expected} completed"]
        parts += [f"{counts[s]} {s}" for s in ("processing", "queued", "received", "failed") if counts[s]]
        return Text(" · ".join(parts), style="bold")


class _Lines:
    """A line a change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, emails: Sequence[Email]) -> None:
        for email in emails:
            retries = f", retry {email['retry_count']}" if email["retry_count"] else ""
            state = (
                f"{email['processing_status']}, {stored(email)}/{len(email['attachments'])} files{retries}"
            )
            if self._states.get(email["id"]) != state:
                self._states[email["id"]] = state
                self._console.out(f"e-mail {email['id']} (ticket {email['zendesk_ticket_id']}): {state}")

    def note(self, text: str) -> None:
        self._console.out(f"note: {text}")


def _path(email: Email) -> Text:
    status = email["processing_status"]
    path = (*_PATH[:-1], "failed") if status == "failed" else _PATH
    at = path.index(status)
    text = Text()
    for number, state in enumerate(path):
        if number:
            text.append(" → ", style="green" if number <= at else "bright_black")
        text.append(state, style="bright_black" if number > at else _style(email, now=number == at))
    return text


def _style(email: Email, *, now: bool) -> str:
    if not now or email["processing_status"] == "completed":
        return "green"
    if email["processing_status"] == "failed":
        return "bold red"
    waits_for_retry = email["processing_status"] == "queued" and email["retry_count"]
    return "bold yellow" if waits_for_retry else "bold cyan"
