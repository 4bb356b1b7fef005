"""What commands print: tables and JSON, in which what others wrote steers no terminal."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from service.queries.views import View


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, whole: Sequence[str]) -> None:
    """Print rows; the columns named in `whole` are not broken over lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        table.add_column(column, no_wrap=column in whole)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    Console().print(table)


def print_json(view: "View") -> None:
    click.echo(json.dumps(view.model_dump(mode="json"), indent=2))


def printable(text: str) -> str:
    """Leave out what would steer a terminal, or turn the direction of writing."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
