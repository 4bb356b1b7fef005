"""`holdfast emails export`: write e-mails with all their data and files."""

import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.filters import filters, selection
from service.cli.terminal import progress
from service.cli.times import shown_time
from service.cli.writing import opened_below, opened_directory, opened_output, reported, write_file
from service.errors import HoldfastError
from service.formatting import printable, safe_file_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from service.cli.backends.port import Backend
    from service.queries.emails import EmailFilter
    from service.queries.views import EmailDetail

    Opening = Coroutine[object, object, AsyncIterator[bytes]]

PAGE = 200
MOST_NAME_BYTES = 200  # file systems accept 255


@click.command()
@filters()
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, not to stdout; it appears whole or not at all.",
)
@click.option(
    "--files",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write the attachments, as DIRECTORY/ID/POSITION-NAME, and record.json and original.eml beside them.",
)
@anywhere
def export(output: Path | None, directory: Path | None, **chosen: str | bool | None) -> None:
    """Write e-mails as lines of JSON.

    Each has its message and its attachments. The newest e-mail is first; each line has every field of the API.

    Exits with 1 if a file could not be written; each one is named, and all others are written.
    """
    from service.queries.emails import EmailFilter

    wanted = selection(EmailFilter, chosen, limit=PAGE)
    with opened_output(output) as out:
        if directory:
            with reported(directory), opened_directory(directory) as into:
                lost = with_backend(lambda backend: _export(backend, wanted, out, into))
        else:
            lost = with_backend(lambda backend: _export(backend, wanted, out))
    if lost:
        click.echo(f"{lost} files could not be written.", err=True)
        sys.exit(1)


async def _export(
    backend: "Backend", wanted: "EmailFilter", out: IO[bytes], directory: int | None = None
) -> int:
    """Write page by page; return how many files could not be written."""
    done = lost = 0
    page, emails = await backend.details(wanted)
    with progress("Exporting", None if page.total_capped else page.total) as tell:
        while True:
            for email in emails:
                if directory is not None:
                    lost += await _write_files(backend, email, directory)
                out.write(json.dumps(email.model_dump(mode="json")).encode() + b"\n")
            done += len(emails)
            tell(done, f"back to {shown_time(page.searched_to)}" if page.searched_to else "")
            if page.next_cursor is None:
                return lost
            wanted = wanted.model_copy(update={"cursor": page.next_cursor})
            page, emails = await backend.details(wanted)


async def _write_files(backend: "Backend", email: "EmailDetail", directory: int) -> int:
    """Write the files of an e-mail, each whole or not at all; return how many could not be written."""
    lost = 0
    for what, name, opening in _contents(backend, email):
        try:
            chunks = await opening
            with opened_below(directory, str(email.id)) as into:
                await write_file(into, name, chunks)
        except HoldfastError as exc:
            lost += 1
            click.echo(printable(f"E-mail {email.id}, {what}: {exc.message}"), err=True)
    return lost


def _contents(backend: "Backend", email: "EmailDetail") -> "Iterator[tuple[str, str, Opening]]":
    """Yield each stored file: its description, its name in the directory, and its opening, to be awaited."""
    message = email.message
    if message and message.record_href:
        yield "record.json", "record.json", backend.message_file(email, "record.json")
    if message and message.original_href:
        yield "original.eml", "original.eml", backend.message_file(email, "original.eml")
    for file in email.attachments:
        if file.object_key is not None:
            whole_name = safe_file_name(file.file_name, otherwise=f"attachment-{file.position}")
            name = whole_name.encode()[-MOST_NAME_BYTES:].decode(errors="ignore")
            yield f"file {file.position}", f"{file.position}-{name}", backend.attachment(email, file)
