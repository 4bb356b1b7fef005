"""`holdfast emails export`: take e-mails out, with all that is known of them, and with their files."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from service.cli.environment import env_file, with_engine, with_resources
from service.cli.filters import filters, selection
from service.cli.terminal import progress, shown_time
from service.formatting import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.emails import EmailFilter
    from service.queries.views import AttachmentView, EmailDetail
    from service.storage.objects import Storage

PAGE = 200
MOST_NAME_BYTES = 200  # file systems take 255


@click.command()
@filters()
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file, not stdout; it appears whole or not at all.",
)
@click.option(
    "--files",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write the files, too: as DIRECTORY/ID/POSITION-NAME.",
)
@env_file
def export(output: Path | None, directory: Path | None, **chosen: str | None) -> None:
    """Write all e-mails that match, newest first: a line of JSON for each, with all that the API has of it.

    Exits with 1 if a file could not be written; all others are there then, and what is missing is named.
    """
    from service.cli.files import opened_directory
    from service.queries.emails import EmailFilter

    wanted = selection(EmailFilter, chosen, limit=PAGE)
    with _opened(output) as out:
        if directory:
            with _told(directory), opened_directory(directory) as into:
                lost = with_resources(lambda res: _export(res.engine, wanted, out, res.storage, into))
        else:
            lost = with_engine(lambda engine: _export(engine, wanted, out))
    if lost:
        click.echo(f"{lost} files could not be written.", err=True)
        sys.exit(1)


async def _export(
    engine: "AsyncEngine",
    wanted: "EmailFilter",
    out: IO[bytes],
    storage: "Storage | None" = None,
    directory: int = -1,
) -> int:
    """Write page by page; return how many files could not be written."""
    from service.queries.emails import list_details

    done = lost = 0
    page, emails = await list_details(engine, wanted)
    with progress("Exporting", None if page.total_capped else page.total) as tell:
        while True:
            for email in emails:
                if storage:
                    lost += await _write_files(storage, email, directory)
                out.write(json.dumps(email.model_dump(mode="json")).encode() + b"\n")
            done += len(emails)
            tell(done, f"back to {shown_time(page.searched_to)}" if page.searched_to else "")
            if page.next_cursor is None:
                return lost
            wanted = wanted.model_copy(update={"cursor": page.next_cursor})
            page, emails = await list_details(engine, wanted)


async def _write_files(storage: "Storage", email: "EmailDetail", directory: int) -> int:
    from service.cli.files import opened_below
    from service.errors import HoldfastError

    lost = 0
    for attachment in email.attachments:
        if attachment.object_key is None:
            continue
        try:
            with opened_below(directory, str(email.id)) as into:
                await _write_file(storage, attachment, attachment.object_key, into)
        except HoldfastError as exc:
            lost += 1
            message = f"E-mail {email.id}, file {attachment.position}: {exc.message}"
            click.echo(printable(message), err=True)
    return lost


async def _write_file(storage: "Storage", attachment: "AttachmentView", key: str, directory: int) -> None:
    """Make the file whole or not at all; raises HoldfastError if its bytes are not those that came."""
    import asyncio
    import hashlib

    from service.cli.files import whole_file
    from service.errors import Permanent
    from service.formatting import safe_file_name
    from service.storage import objects

    opened = await objects.open(storage, key)
    name = (
        safe_file_name(attachment.file_name, otherwise=f"attachment-{attachment.position}")
        .encode()[-MOST_NAME_BYTES:]
        .decode(errors="ignore")
    )
    found = hashlib.sha256()
    with whole_file(directory, f"{attachment.position}-{name}") as file:
        async for chunk in opened.chunks:
            found.update(chunk)
            await asyncio.to_thread(file.write, chunk)
        if found.hexdigest() != attachment.sha256:
            raise Permanent("object_damaged", f"the object {key} does not hold what was put there")


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    with _whole(output) as file:
        yield file


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its name only when all is written; readable by its owner alone."""
    from tempfile import NamedTemporaryFile

    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".holdfast-", delete=False) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell in one line that something cannot be written there."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None or isinstance(exc, ConnectionError | TimeoutError):  # of stdout, of a wait
            raise
        raise click.ClickException(f"cannot write {exc.filename or path}: {exc.strerror or exc}") from None
