"""Print tables, facts and JSON; control characters in others' text never reach the terminal."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from service.formatting import printable

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console
    from rich.progress import Progress

_STATES = {
    "green": ("completed", "synced", "done", "alive", "ok"),
    "bold green": ("safe",),
    "cyan": ("queued", "processing", "running"),
    "yellow": ("silent", "warn"),
    "bold yellow": ("attention", "late"),
    "red": ("failed", "not synced"),
    "bold red": ("wrong",),
}
STYLES = {state: style for style, states in _STATES.items() for state in states}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API does.")


@dataclass(frozen=True)
class Column:
    """A column of a table. A `whole` one is never wrapped; a terminal below `least_width` omits the column."""

    name: str
    whole: bool = False
    least_width: int = 0  # in characters, of the terminal


def console(*, stderr: bool = False) -> "Console":
    """Return a console, in colour if the terminal supports it."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on a terminal; in a pipe one row per line, tab-separated."""
    out = console()
    if not out.is_terminal:
        for row in rows:
            click.echo("\t".join(printable(str(cell)) for cell in row))
        return
    from rich.table import Table
    from rich.text import Text

    shown = [place for place, column in enumerate(columns) if out.width >= column.least_width]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place in shown:
        table.add_column(columns[place].name, no_wrap=columns[place].whole, overflow="fold")
    for row in rows:
        table.add_row(*(Text(text, style(text)) for text in (printable(str(row[place])) for place in shown)))
    out.print(table)


def print_line(*parts: object) -> None:
    """Print words separated by spaces, each state in its colour."""
    from rich.text import Text

    texts = (printable(str(part)) for part in parts if part != "")
    console().print(Text(" ").join(Text(text, style(text.strip())) for text in texts), soft_wrap=True)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one per line, without those that are None."""
    for name, value in facts:
        if value is not None:
            print_line(f"{name + ':':<14}", value)


def print_json(view: "BaseModel | dict[str, object]", *, indent: int | None = 2) -> None:
    """Print one JSON document; without indent on one line."""
    data = view if isinstance(view, dict) else view.model_dump(mode="json")
    click.echo(json.dumps(data, indent=indent))


def print_bytes(content: bytes) -> None:
    """Print bytes unchanged in a pipe; on a terminal without control characters."""
    if sys.stdout.isatty():
        click.echo("\n".join(map(printable, content.decode(errors="replace").splitlines())))
    else:
        click.echo(content, nl=False)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """Show a progress bar on a terminal; the yielded function sets its number and note."""
    if not sys.stderr.isatty():
        yield lambda _done, _note: None
        return
    bar = _bar(total)
    task = bar.add_task(what, total=total, note="")

    def show_progress(done: int, note: str) -> None:
        bar.start()
        # The total may have been capped, or may have grown.
        most = None if total is None else max(total, done)
        bar.update(task, completed=done, total=most, note=printable(note))

    try:
        yield show_progress
    finally:
        bar.stop()


def style(text: str) -> str:
    return STYLES.get(text, "")


def _bar(total: int | None) -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}", markup=False), MofNCompleteColumn(), TimeElapsedColumn()]
    note = TextColumn("{task.fields[note]}", markup=False)
    if total is not None:
        columns.insert(1, BarColumn())
    return Progress(*columns, note, console=console(stderr=True), transient=True)
