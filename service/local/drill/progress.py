"""Show the progress of a drill: a bar on a terminal, elsewhere a line every ten seconds."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from service.local.drill.ledger import Ledger, Webhook

_LINE_SECONDS = 10
_SHOW_SECONDS = 0.3  # counting the webhooks of a long drill takes time


class _Bar(Bar):
    """A progress bar, and a line with the current faults."""

    faults = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.faults:
            yield Text(f"  faults    {self.faults}", no_wrap=True, overflow="ellipsis")


class DrillProgress:
    """The parts of a drill report here."""

    def __init__(self, console: Console, bar: _Bar, expected: int, ledger: Ledger) -> None:
        self._console, self._bar, self._ledger = console, bar, ledger
        self._task = bar.add_task("sending", total=expected, counts="")
        self._given_up = 0
        self._faults: list[str] = []
        self._began = self._shown = self._printed = time.monotonic()
        self._most_unfinished = 0

    def sent(self, webhook: Webhook) -> None:
        """Count a webhook that was acknowledged or given up."""
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

    def draining(self, unfinished: int) -> None:
        """Show the number of unfinished e-mails, after the last webhook."""
        self._most_unfinished = max(self._most_unfinished, unfinished)
        self._bar.update(
            self._task,
            description="draining",
            total=self._most_unfinished,
            completed=self._most_unfinished - unfinished,
            counts=f"{unfinished:,} unfinished",
        )

    def note(self, text: str) -> None:
        self._console.print(f"  {text}", style="dim", soft_wrap=True)

    def _show(self) -> None:
        self._shown = now = time.monotonic()
        waiting = self._ledger.count("unknown") - self._given_up
        acknowledged = self._ledger.count("ok")
        counts = f"{acknowledged:,} acknowledged, {max(0, waiting):,} waiting, {self._given_up:,} given up"
        self._bar.faults = " ".join(self._faults)
        self._bar.update(self._task, counts=counts)
        if not self._console.is_terminal and now - self._printed > _LINE_SECONDS:
            self._printed = now
            self._console.print(
                f"  {now - self._began:3.0f} s  {counts}   {self._bar.faults}", soft_wrap=True
            )


@contextmanager
def open_progress(console: Console, expected: int, ledger: Ledger) -> Iterator[DrillProgress]:
    columns = (
        TextColumn("  {task.description:<8}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[counts]}"),
    )
    with _Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield DrillProgress(console, bar, expected, ledger)
