"""Show how a drill goes: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from service.local.drill.ledger import Ledger

_LINE_SECONDS = 10


class Progress:
    """Where the parts of a drill tell what they do."""

    def __init__(self, console: Console, bar: Bar, expected: int, ledger: Ledger) -> None:
        self._console, self._bar, self._ledger = console, bar, ledger
        self._task = bar.add_task("sending", total=expected, what="")
        self._faults: list[str] = []
        self._told = time.monotonic()

    def sent(self) -> None:
        self._bar.advance(self._task)
        self._show()

    @contextmanager
    def during(self, fault: str) -> Iterator[None]:
        self._faults.append(fault)
        self._show()
        yield
        self._faults.remove(fault)
        self._show()

    def left(self, unfinished: int) -> None:
        self._bar.update(self._task, description="draining", what=f"{unfinished:,} unfinished")

    def note(self, text: str) -> None:
        self._console.print(f"  {text}", style="dim")

    def _show(self) -> None:
        counts = f"{self._ledger.count('ok'):,} ok · {self._ledger.count('unknown'):,} not yet"
        what = f"{counts}   {' '.join(self._faults)}"
        self._bar.update(self._task, what=what)
        if not self._console.is_terminal and time.monotonic() - self._told > _LINE_SECONDS:
            self._told = time.monotonic()
            self._console.print(f"  {what}")


@contextmanager
def open_progress(console: Console, seconds: float, rate: float, ledger: Ledger) -> Iterator[Progress]:
    columns = (
        TextColumn("  {task.description:<8}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[what]}"),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Progress(console, bar, int(seconds * rate), ledger)
