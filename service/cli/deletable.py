"""`holdfast emails deletable`: the tickets that are safe to delete in Zendesk, as CSV or lines of JSON."""

import csv
import io
import json
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from service.cli.environment import env_file, with_resources
from service.cli.terminal import progress
from service.cli.times import TIME, TIME_HELP
from service.cli.writing import opened_output
from service.formatting import counted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from service.queries.deletable import LeftOut
    from service.resources import Resources

COLUMNS = ("ticket_id", "emails", "files", "bytes", "first_at", "last_at", "verified")
REASONS = {
    "not_read": "could not be read: Zendesk refuses them to the user of the credentials",
    "not_kept": "have an e-mail that is missing, failed, in work, or without its message",
    "changed": "were changed in Zendesk",
    "not_synced": "have an e-mail that is not synced",
    "not_verified": "have files that no verification has read: `holdfast storage verify`",
    "gone": "are gone in Zendesk",
    "older": "are older than the search: they may have e-mails that are not known here",
    "updated": "changed since the search: run this again later",
}


@click.command()
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="How to write.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, not to stdout; it appears whole or not at all.",
)
@click.option(
    "--before", type=TIME, help=f"Only tickets whose last e-mail came before this time, {TIME_HELP}."
)
@click.option("--unverified", is_flag=True, help="Also tickets with files that no verification has read.")
@env_file
def deletable(kind: str, output: Path | None, before: "datetime | None", *, unverified: bool) -> None:
    """List the tickets that are safe to delete in Zendesk.

    The list says how much storage this frees there.
    All their e-mails are completed, verified, and synced if there is a target. Zendesk is asked for each ticket: it was
    made since the search began, and has not changed since the last search.

    Only e-mails and their files are kept here: deleting a ticket also deletes comments that agents wrote in Zendesk.
    """
    with opened_output(output) as out:
        number, size, left_out = with_resources(
            lambda res: _write(res, out, kind, before, unverified=unverified)
        )
    click.echo(f"{counted(number, 'ticket')} with {size:,} bytes of files.", err=True)
    for reason, count in left_out.reasons.most_common():
        click.echo(f"Left out: {counted(count, 'ticket')} that {REASONS[reason]}.", err=True)


async def _write(
    res: "Resources", out: IO[bytes], kind: str, before: "datetime | None", *, unverified: bool
) -> "tuple[int, int, LeftOut]":
    """Write ticket after ticket; return their number, the bytes of their files, and the number of tickets left out."""
    import asyncio

    from service.queries import deletable as tickets

    left_out, number, size = tickets.LeftOut(), 0, 0
    if kind == "csv":
        await asyncio.to_thread(out.write, _row(COLUMNS))
    with progress("Tickets") as tell:
        async for ticket in tickets.deletable(res, left_out, before=before, unverified=unverified):
            values = ticket.model_dump(mode="json")
            line = _row(values[name] for name in COLUMNS) if kind == "csv" else _line(values)
            await asyncio.to_thread(out.write, line)
            number, size = number + 1, size + ticket.bytes
            tell(number, "")
    return number, size, left_out


def _row(values: "Iterable[object]") -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode()


def _line(values: dict[str, object]) -> bytes:
    return json.dumps(values).encode() + b"\n"
