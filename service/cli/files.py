"""Write files below a directory, and never through a link that somebody put there."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from service.errors import Permanent

# What a name that is a link, or no directory, is refused with.
_NO_DIRECTORY = {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}


@contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """Open the directory that the user named, made if need be; yields its descriptor."""
    path.mkdir(parents=True, exist_ok=True)
    with _closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
        yield directory


@contextmanager
def opened_below(parent: int, name: str) -> Iterator[int]:
    """Open a directory in this one, made if need be; yields its descriptor.

    Raises Permanent where it is a link, no directory, or somebody else's, who could move it away meanwhile.
    """
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as exc:
        if exc.errno not in _NO_DIRECTORY:
            raise
        raise Permanent(
            "not_written", f"in its place is something called {name} that is no directory: remove it"
        ) from None
    with _closing(directory):
        if os.fstat(directory).st_uid != os.geteuid():
            raise Permanent("not_written", f"the directory {name} belongs to another user: remove it")
        yield directory


@contextmanager
def whole_file(directory: int, name: str) -> Iterator[IO[bytes]]:
    """Open a file of this directory that takes its name only when all is written; readable by its owner alone.

    It takes the place of what had this name before, also of a link, but not of a directory.
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
            raise Permanent("not_written", f"in its place is a directory called {name}: remove it") from None
        raise


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
