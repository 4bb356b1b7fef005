"""`holdfast emails download`: an e-mail as files, or as a ZIP."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.filters import ID
from service.cli.terminal import print_line
from service.cli.writing import opened_below, opened_directory, reported, write_file
from service.errors import HoldfastError
from service.formatting import counted, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cli.backends.port import Backend
    from service.queries.archive import Part


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
@anywhere
def download(email_ids: tuple[int, ...], directory: Path, *, as_zip: bool) -> None:
    """Download e-mails with all their files.

    Each becomes a directory email-ID: message, original, Zendesk's record, attachments and a manifest. The manifest has the hashes, and what is missing.

    Exits with 1 if an e-mail could not be written as a whole; each one is named, and all others are written.
    """
    with reported(directory), opened_directory(directory) as into:
        lost = with_backend(lambda backend: _download(backend, email_ids, directory, into, as_zip=as_zip))
    if lost:
        click.echo(f"{counted(lost, 'e-mail')} could not be written as a whole.", err=True)
        sys.exit(1)


async def _download(
    backend: "Backend", email_ids: "Sequence[int]", near: Path, directory: int, *, as_zip: bool
) -> int:
    """Write each e-mail; return how many could not be written."""
    lost = 0
    for email_id in email_ids:
        try:
            async with backend.archive(email_id, near) as archive:
                name = f"email-{archive.email_id}"
                if as_zip:
                    await write_file(directory, f"{name}.zip", archive.zipped)
                else:
                    with opened_below(directory, name) as own:
                        await _write(archive.parts, own)
            print_line(f"{name}.zip" if as_zip else name, counted(len(archive.parts), "file"))
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
