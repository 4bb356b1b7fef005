"""Objects as files, which survive a kill and a power cut whole or not at all."""

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from service.storage.spool import Spool

_LEFTOVER_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Disk:
    """A directory. obstore's LocalStore does not fsync, and leaves half files among the objects when killed."""

    root: Path

    def spool_file(self) -> IO[bytes]:
        """Make a file on the same file system, and remove what killed processes left there."""
        directory = self.root / ".spool"
        directory.mkdir(parents=True, exist_ok=True)
        with os.scandir(directory) as entries:
            for entry in entries:
                with suppress(OSError):  # somebody else removes it, too
                    if entry.stat().st_mtime < time.time() - _LEFTOVER_SECONDS:
                        Path(entry.path).unlink()
        return NamedTemporaryFile(dir=directory, delete=False)

    async def size(self, key: str) -> int:
        return (await asyncio.to_thread((self.root / key).stat)).st_size

    async def read(self, key: str, start: int, end: int) -> bytes:
        return await asyncio.to_thread(self._read, key, start, end)

    async def write(self, key: str, spool: Spool) -> None:
        await asyncio.to_thread(self._write, key, spool)

    async def check(self) -> None:
        await asyncio.to_thread(self._check)

    def _read(self, key: str, start: int, end: int) -> bytes:
        with (self.root / key).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

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


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
