"""Write files into directories that a user named: whole or not at all; planted links are not followed."""

import errno
import os
import secrets
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click

from service.errors import Permanent

# Opening a link, or a file, as a directory fails with one of these.
_NO_DIRECTORY = {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Report in one line that a path cannot be written."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None or isinstance(exc, ConnectionError | TimeoutError):  # from stdout or a timeout
            raise
        reason = f"cannot write {exc.filename or path}: {exc.strerror or exc}"
        raise click.ClickException(f"{reason}. Give another path, or change its permissions.") from None


@contextmanager
def opened_output(path: Path | None) -> Iterator[IO[bytes]]:
    """Open the file that the user named, which appears whole or not at all; without one, stdout."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    try:
        with (
            reported(path),
            opened_directory(path.parent) as directory,
            whole_file(directory, path.name) as file,
        ):
            yield file
    except Permanent as exc:
        raise click.ClickException(exc.message) from None


@contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """Open the directory that the user named, created if missing; yields its descriptor."""
    path.mkdir(parents=True, exist_ok=True)
    with _closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
        yield directory


@contextmanager
def opened_below(parent: int, name: str) -> Iterator[int]:
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


async def write_file(directory: int, name: str, chunks: AsyncIterator[bytes]) -> None:
    """Write a file whole or not at all; raises the errors of the chunks, and Permanent."""
    import asyncio

    with whole_file(directory, name) as file:
        async for chunk in chunks:
            await asyncio.to_thread(file.write, chunk)


@contextmanager
def whole_file(directory: int, name: str) -> Iterator[IO[bytes]]:
    """Open a file that gets its name only when all is written; readable by its owner alone.

    It replaces a file, or a link to one, of the same name, and nothing else: a device would be lost for all programs.
    """
    _check_replaceable(directory, name)
    temporary = f".holdfast-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise


def _check_replaceable(directory: int, name: str) -> None:
    """Raise Permanent if something has this name that is neither a file nor a link to one; a link may lead nowhere."""
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=directory).st_mode
        if not stat.S_ISREG(mode):
            what = "a directory: remove it" if stat.S_ISDIR(mode) else "no file: give another path"
            raise Permanent("not_written", f"{name} exists and is {what}")


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
