"""Objects as files, which survive a kill and a power cut whole or not at all."""

import asyncio
import errno
import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from service.storage.spool import Spool

_LEFTOVER_SECONDS = 24 * 3600  # where files cannot be locked


@dataclass(frozen=True)
class Disk:
    """A directory. obstore's LocalStore does not fsync, and leaves half files among the objects when killed."""

    root: Path

    def spool_directory(self) -> str:
        return str(self.root / ".spool")

    def spool_file(self) -> IO[bytes]:
        """Make a file on the same file system, and remove what killed processes left there."""
        directory = Path(self.spool_directory())
        directory.mkdir(parents=True, exist_ok=True)
        with os.scandir(directory) as entries:
            for entry in entries:
                _remove_leftover(Path(entry.path))
        while True:
            file = NamedTemporaryFile(dir=directory, delete=False)  # noqa: SIM115 it is the spool's to close
            with suppress(BlockingIOError):
                _lock(file)
                if os.fstat(file.fileno()).st_nlink:
                    return file
            file.close()  # somebody took it for a leftover before it was locked

    async def size(self, key: str) -> int:
        return await asyncio.to_thread(self._size, key)

    async def read(self, key: str, start: int, end: int) -> bytes:
        return await asyncio.to_thread(self._read, key, start, end)

    async def write(self, key: str, spool: Spool) -> None:
        await asyncio.to_thread(self._write, key, spool)

    async def check(self) -> None:
        await asyncio.to_thread(self._check)

    def _size(self, key: str) -> int:
        with self._open(key) as file:
            return os.fstat(file.fileno()).st_size

    def _read(self, key: str, start: int, end: int) -> bytes:
        with self._open(key) as file:
            file.seek(start)
            return file.read(end - start)

    def _open(self, key: str) -> IO[bytes]:
        try:
            return (self.root / key).open("rb")
        except FileNotFoundError:
            if Path(self.spool_directory()).is_dir():
                raise
        # Not the object is missing, but the directory that it was put in.
        raise OSError(
            errno.ENODEV, "nothing was ever stored here, the volume may not be mounted", str(self.root)
        )

    def _write(self, key: str, spool: Spool) -> None:
        path = self.root / key
        with spool.lock:
            self._place(path, spool)
        # Also of an object that was there: whoever is putting it may not have come this far.
        for directory in (path.parent, path.parent.parent, self.root):
            _sync(directory)

    @staticmethod
    def _place(path: Path, spool: Spool) -> None:
        if not (path.is_file() and path.stat().st_size == spool.size):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = spool.file or spool.to_file()
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)

    def _check(self) -> None:
        with self.spool_file() as file:
            Path(file.name).unlink()
            file.write(b"check")
            file.flush()


def _remove_leftover(path: Path) -> None:
    """Remove a spool file whose owner is dead: a living one holds a lock on it."""
    with suppress(OSError), path.open("r+b") as file:  # NFS locks only what may be written
        if _lock(file) or os.fstat(file.fileno()).st_mtime < time.time() - _LEFTOVER_SECONDS:
            path.unlink()


def _lock(file: IO[bytes]) -> bool:
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


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
