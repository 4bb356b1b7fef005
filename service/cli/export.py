"""`holdfast emails export`: write e-mails with all their data and files; planted links are not followed."""

import errno
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from service.cli.environment import env_file, with_engine, with_resources
from service.cli.filters import filters, selection
from service.cli.terminal import progress, shown_time
from service.errors import HoldfastError, Permanent
from service.formatting import printable, safe_file_name

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.emails import EmailFilter
    from service.queries.views import AttachmentView, EmailDetail
    from service.storage.objects import Storage

PAGE = 200
MOST_NAME_BYTES = 200  # file systems accept 255
# Opening a link, or a file, as a directory fails with one of these.
_NO_DIRECTORY = {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}


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
    help="Also write the attachments, as DIRECTORY/ID/POSITION-NAME.",
)
@env_file
def export(output: Path | None, directory: Path | None, **chosen: str | None) -> None:
    """Write e-mails as lines of JSON, with their attachments.

    The newest e-mail is first; each line has every field of the API.

    Exits with 1 if an attachment could not be written; each one is named, and all others are written.
    """
    from service.queries.emails import EmailFilter

    wanted = selection(EmailFilter, chosen, limit=PAGE)
    with _opened(output) as out:
        if directory:
            with _reported(directory), _opened_directory(directory) as into:
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
    lost = 0
    for attachment in email.attachments:
        if attachment.object_key is None:
            continue
        try:
            with _opened_below(directory, str(email.id)) as into:
                await _write_file(storage, attachment, attachment.object_key, into)
        except HoldfastError as exc:
            lost += 1
            message = f"E-mail {email.id}, file {attachment.position}: {exc.message}"
            click.echo(printable(message), err=True)
    return lost


async def _write_file(storage: "Storage", attachment: "AttachmentView", key: str, directory: int) -> None:
    """Write the file whole or not at all; raises HoldfastError if the object is missing or damaged."""
    import asyncio
    import hashlib

    from service.storage import objects

    opened = await objects.open(storage, key)
    whole_name = safe_file_name(attachment.file_name, otherwise=f"attachment-{attachment.position}")
    name = whole_name.encode()[-MOST_NAME_BYTES:].decode(errors="ignore")
    found = hashlib.sha256()
    with _whole_file(directory, f"{attachment.position}-{name}") as file:
        async for chunk in opened.chunks:
            found.update(chunk)
            await asyncio.to_thread(file.write, chunk)
        if found.hexdigest() != attachment.sha256:
            raise Permanent(
                "object_damaged",
                f"the object {key} is damaged: `holdfast storage verify --fix` fetches it again",
            )


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    with (
        _reported(output),
        _opened_directory(output.parent) as directory,
        _whole_file(directory, output.name) as file,
    ):
        yield file


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Report in one line that a path cannot be written."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None or isinstance(exc, ConnectionError | TimeoutError):  # from stdout or a timeout
            raise
        reason = f"cannot write {exc.filename or path}: {exc.strerror or exc}"
        raise click.ClickException(f"{reason}. Give another path, or change its permissions.") from None


@contextmanager
def _opened_directory(path: Path) -> Iterator[int]:
    """Open the directory that the user named, created if missing; yields its descriptor."""
    path.mkdir(parents=True, exist_ok=True)
    with _closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
        yield directory


@contextmanager
def _opened_below(parent: int, name: str) -> Iterator[int]:
    """Open a subdirectory, created if missing; yields its descriptor.

    Raises Permanent if it is a link, no directory, or another user's, who could move it away meanwhile.
    """
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as exc:
        if exc.errno not in _NO_DIRECTORY:
            raise
        raise Permanent("not_written", f"{name} exists and is no directory: remove it") from None
    with _closing(directory):
        if os.fstat(directory).st_uid != os.geteuid():
            raise Permanent("not_written", f"the directory {name} belongs to another user: remove it")
        yield directory


@contextmanager
def _whole_file(directory: int, name: str) -> Iterator[IO[bytes]]:
    """Open a file that gets its name only when all is written; readable by its owner alone.

    It replaces a file or a link of the same name, but not a directory.
    """
    temporary = f".holdfast-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException as exc:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        if isinstance(exc, IsADirectoryError):
            raise Permanent("not_written", f"{name} exists and is a directory: remove it") from None
        raise


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
