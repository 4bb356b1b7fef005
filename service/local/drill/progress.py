"""Show how a drill goes: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from service.local.drill.ledger import Ledger, Webhook

_LINE_SECONDS = 10
_SHOW_SECONDS = 0.3  # the webhooks of a long drill take a while to count


class _Bar(Bar):
    """A bar, and a line with the faults of the moment."""

    faults = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.faults:
            yield Text(f"  hurting   {self.faults}", no_wrap=True, overflow="ellipsis")


class DrillProgress:
    """Where the parts of a drill tell what they do."""

    def __init__(self, console: Console, bar: _Bar, expected: int, ledger: Ledger) -> None:
        self._console, self._bar, self._ledger = console, bar, ledger
        self._task = bar.add_task("sending", total=expected, what="")
        self._given_up = 0
        self._faults: list[str] = []
        self._began = self._shown = self._told = time.monotonic()
        self._most_left = 0

    def sent(self, webhook: Webhook) -> None:
        """Note that a webhook is over, for good or for bad."""
        self._given_up += webhook.outcome != "ok"
        self._bar.advance(self._task)
        if time.monotonic() - self._shown > _SHOW_SECONDS:
            self._show()

    @contextmanager
    def during(self, fault: str) -> Iterator[None]:
        self._faults.append(fault)
        self._show()
        yield
        self._faults.remove(fault)
        self._show()

    def left(self, unfinished: int) -> None:
        """Note how many e-mails are not finished, now that nothing is sent any more."""
        self._most_left = max(self._most_left, unfinished)
        self._bar.update(
            self._task,
            description="draining",
            total=self._most_left,
            completed=self._most_left - unfinished,
            what=f"{unfinished:,} unfinished",
        )

    def note(self, text: str) -> None:
        self._console.print(f"  {text}", style="dim", soft_wrap=True)

    def _show(self) -> None:
        self._shown = now = time.monotonic()
        waiting = self._ledger.count("unknown") - self._given_up
        what = f"{self._ledger.count('ok'):,} taken, {max(0, waiting):,} waiting, {self._given_up:,} given up"
        self._bar.faults = " ".join(self._faults)
        self._bar.update(self._task, what=what)
        if not self._console.is_terminal and now - self._told > _LINE_SECONDS:
            self._told = now
            self._console.print(f"  {now - self._began:3.0f} s  {what}   {self._bar.faults}", soft_wrap=True)


@contextmanager
def open_progress(console: Console, expected: int, ledger: Ledger) -> Iterator[DrillProgress]:
    columns = (
        TextColumn("  {task.description:<8}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[what]}"),
    )
    with _Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield DrillProgress(console, bar, expected, ledger)
