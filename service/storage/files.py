"""What a directory of objects asks of the file system, beside reading and writing."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

_LEFTOVER_SECONDS = 24 * 3600  # where files cannot be locked


def remove_leftover(path: Path) -> None:
    """Remove a spool file whose owner is dead: a living one holds a lock on it."""
    with suppress(OSError), path.open("r+b") as file:  # NFS locks only what may be written
        if lock(file) or os.fstat(file.fileno()).st_mtime < time.time() - _LEFTOVER_SECONDS:
            path.unlink()


def lock(file: IO[bytes]) -> bool:
    """Hold a file until it is closed or this process dies; False if its file system has no locks.

    Raises BlockingIOError if somebody else holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
