"""`holdfast emails download`: an e-mail as files, or as a ZIP."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.backends.database import followed
from service.cli.environment import env_file, with_resources
from service.cli.filters import ID
from service.cli.terminal import print_line
from service.cli.writing import opened_below, opened_directory, reported, write_file
from service.errors import HoldfastError
from service.formatting import counted, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.queries.archive import Part
    from service.resources import Resources


@click.command()
@click.argument("email_ids", metavar="ID...", type=ID, nargs=-1, required=True)
@click.option(
    "--to",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Write into this directory; the default is the current one.",
)
@click.option("--zip", "as_zip", is_flag=True, help="Write one file email-ID.zip for each e-mail.")
@env_file
def download(email_ids: tuple[int, ...], directory: Path, *, as_zip: bool) -> None:
    """Download e-mails with all their files.

    Each becomes a directory email-ID: message, original, Zendesk's record, attachments and a manifest. The manifest has the hashes, and what is missing.

    Exits with 1 if an e-mail could not be written as a whole; each one is named, and all others are written.
    """
    with reported(directory), opened_directory(directory) as into:
        lost = with_resources(lambda res: _download(res, email_ids, into, as_zip=as_zip))
    if lost:
        click.echo(f"{counted(lost, 'e-mail')} could not be written as a whole.", err=True)
        sys.exit(1)


async def _download(res: "Resources", email_ids: "Sequence[int]", directory: int, *, as_zip: bool) -> int:
    """Write each e-mail; return how many could not be written."""
    from service.queries.archive import open_parts, zipped
    from service.queries.emails import get_content

    lost = 0
    for email_id in email_ids:
        try:
            email, content = await get_content(res.engine, await followed(res.engine, email_id))
            parts = await open_parts(res.storage, email, content)
            name = f"email-{email.id}"
            if as_zip:
                await write_file(directory, f"{name}.zip", zipped(parts, email))
            else:
                with opened_below(directory, name) as own:
                    await _write(parts, own)
            print_line(f"{name}.zip" if as_zip else name, counted(len(parts), "file"))
        except HoldfastError as exc:
            lost += 1
            click.echo(printable(f"E-mail {email_id}: {exc.message}"), err=True)
    return lost


async def _write(parts: "Sequence[Part]", directory: int) -> None:
    for part in parts:
        folder, _, name = part.name.rpartition("/")
        if folder:
            with opened_below(directory, folder) as below:
                await write_file(below, name, part.chunks)
        else:
            await write_file(directory, name, part.chunks)
