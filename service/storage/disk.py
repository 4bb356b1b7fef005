"""Objects as files: each survives a kill and a power cut whole or not at all.

Names are texts where each put needs them: with `Path`, a put of 100 kB takes 0.05 ms more, of 0.2 ms that are not the
system's.
"""

import asyncio
import errno
import fcntl
import math
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import IO, TypeVar

import structlog

from service.group_commit import GroupCommit
from service.storage.interface import ALL, HEAD_KEY, HEADS, KEY, RANGES, Listed, Method
from service.storage.spool import Spool
from service.telemetry.metrics import BATCHES

T = TypeVar("T")

# Much less than a lease: a killed worker's file is gone before another worker has done its job.
_CLEAN_SECONDS = 5
_THREADS = 32
# Where a sync takes so long, many run at once: the disk merges them. On a fast disk, the switches between threads take
# longer than the syncs.
_SLOW_SYNC_SECONDS = 0.001
_LEFTOVER_SECONDS = 24 * 3600  # on file systems without locks

log = structlog.get_logger()


@dataclass
class Disk:
    """A directory of objects. obstore's LocalStore does not fsync, and a kill leaves half files among its objects."""

    root: Path
    # Says whether nothing is on record that an empty directory lacks; without it, any directory is good.
    is_first: Callable[[], Awaitable[bool]] | None = None
    _has_begun: bool = False
    _durable: set[str] = field(default_factory=set)  # directories that survive a power cut
    _cleaned_at: float = -math.inf
    # The shortest sync of the last group: longer ones may have waited for the interpreter.
    _sync_seconds: float = 0.0
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "disk"))
    # Of their own: a write waits for its syncs, and all threads may be writing.
    _sync_threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "sync"))

    @cached_property
    def _root(self) -> str:
        return str(self.root)

    @cached_property
    def _spool(self) -> str:
        return f"{self._root}/.spool"

    async def ready(self) -> None:
        if self._has_begun:
            return
        # Another process may begin at the same moment: it makes the directory first, and then the record.
        if not (
            await self._run(self._is_known)
            or self.is_first is None
            or await self.is_first()
            or await self._run(self._is_known)
        ):
            raise self._not_mounted()
        await self._run(self._make, self._spool)
        self._has_begun = True

    def spool_directory(self) -> str:
        return self._spool

    def spool_file(self) -> IO[bytes]:
        """Create a file on the same file system."""
        self._remove_leftovers()
        while True:
            try:
                file = open(f"{self._spool}/{os.urandom(16).hex()}", "xb", opener=_private)  # noqa: SIM115 the spool closes it
            except FileNotFoundError:
                if self.is_first is not None:
                    self._has_begun = False  # the volume went away: the next put looks again
                    raise
                self._make(self._spool)
                continue
            with suppress(BlockingIOError):
                lock(file)
                if os.fstat(file.fileno()).st_nlink:
                    return file
            file.close()  # another process took it for a leftover before it was locked

    async def size(self, key: str) -> int:
        return await self._run(self._size, key)

    async def read(self, key: str, start: int, end: int) -> bytes:
        return await self._run(self._read, key, start, end)

    async def write(self, spool: Spool) -> None:
        if spool.is_large:
            (error,) = await self._run(self._write, [spool])
        else:
            error = await self._small.add(spool, spool.size)
        if error:
            raise error

    async def pages(self, prefix: str) -> AsyncIterator[Sequence[Listed]]:
        for part in RANGES if prefix == ALL else (prefix,):
            yield await self._run(self._list, part)

    async def keep(self, key: str, content: bytes) -> None:
        await self._run(self._keep, key, content)

    async def heads(self) -> AsyncIterator[Sequence[str]]:
        yield await self._run(self._heads)

    async def remove(self, key: str) -> None:
        await self._run(self._remove, key)

    async def sign(self, key: str, method: Method, expires: timedelta) -> str | None:  # noqa: ARG002 the port's signature
        return None

    async def check(self) -> None:
        await self._run(self._check)

    async def probe(self) -> bool:
        await self._run(self._probe)
        return True

    def _run(self, work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

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
            self._check_mounted()
            raise

    def _list(self, prefix: str) -> list[Listed]:
        try:
            with os.scandir(self.root / prefix) as entries:
                return [found for entry in entries if (found := _listed(prefix, entry))]
        except FileNotFoundError:
            if not (self.root / ALL).is_dir():
                self._check_mounted()
            return []

    def _remove(self, key: str) -> None:
        try:
            (self.root / key).unlink()
        except FileNotFoundError:
            self._check_mounted()

    def _keep(self, key: str, content: bytes) -> None:
        path = self.root / key
        with self.spool_file() as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.link(file.name, path)
            os.unlink(file.name)
        for directory in (path.parent, path.parent.parent, self.root):
            sync(directory)

    def _heads(self) -> list[str]:
        found = (str(path.relative_to(self.root)) for path in (self.root / HEADS).glob("*/*"))
        return sorted(key for key in found if HEAD_KEY.fullmatch(key))

    def _is_known(self) -> bool:
        """Say whether something was stored here before; a copy may have been made without the spool."""
        return os.path.isdir(self._spool) or os.path.isdir(f"{self._root}/{ALL}")

    def _check_mounted(self) -> None:
        """Raise OSError if the directory of all objects is missing, and not only the object."""
        if not self._is_known():
            raise self._not_mounted()

    def _not_mounted(self) -> OSError:
        said = "nothing was ever stored here, the volume may not be mounted"
        return OSError(errno.ENODEV, f"{said} (if it is meant to be empty, create {self._spool})", self._root)

    @cached_property
    def _small(self) -> GroupCommit[Spool, Exception | None]:
        """Writes small files together: the worker needs two thirds of its processor time, and a directory is synced once."""
        return GroupCommit(lambda spools: self._run(self._write, spools), BATCHES.labels("write").observe)

    def _write(self, spools: Sequence[Spool]) -> list[Exception | None]:
        """Write spools together; return the error of each."""
        errors: dict[Spool, Exception] = {}
        with ExitStack() as stack:
            for spool in spools:
                stack.enter_context(closing(spool))
            _each(Spool.finish, spools, errors)
            new = [spool for spool in spools if not _has(self._path(spool), spool)]
            _each(Spool.write_back, new, errors)
            self._sync(Spool.sync, new, errors)
            _each(self._place, new, errors)
            # Also for existing objects: the process that is putting one may not have synced it yet.
            self._sync_directories(spools, errors)
        return [errors.get(spool) for spool in spools]

    def _path(self, spool: Spool) -> str:
        return f"{self._root}/{spool.key}"

    def _place(self, spool: Spool) -> None:
        path = self._path(spool)
        try:
            spool.move(path)
        except FileNotFoundError:
            self._check_mounted()
            self._make(os.path.dirname(path))
            spool.move(path)

    def _make(self, directory: str) -> None:
        # The volume's content may not be the one that we knew.
        self._durable.clear()
        os.makedirs(directory, exist_ok=True)

    def _sync_directories(self, spools: Sequence[Spool], errors: dict[Spool, Exception]) -> None:
        directories = {spool: os.path.dirname(self._path(spool)) for spool in spools if spool not in errors}
        failed: dict[str, Exception] = {}
        self._sync(sync, set(directories.values()), failed)
        if new := set(directories.values()) - failed.keys() - self._durable:
            sync(f"{self._root}/{ALL}")
            sync(self._root)
            self._durable |= new
        errors.update({spool: failed[path] for spool, path in directories.items() if path in failed})

    def _sync(self, step: Callable[[T], None], items: Collection[T], errors: dict[T, Exception]) -> None:
        """Sync items, at the same time where the disk is slow; note the error of each."""
        took: list[float] = []

        def timed(item: T) -> None:
            began = time.monotonic()
            step(item)
            took.append(time.monotonic() - began)

        if self._sync_seconds < _SLOW_SYNC_SECONDS:
            _each(timed, items, errors)
        else:
            wait([self._sync_threads.submit(_each, timed, [item], errors) for item in items])
        self._sync_seconds = min(took, default=self._sync_seconds)

    def _remove_leftovers(self) -> None:
        """Remove files of killed processes now and then; looking at each file costs more than creating one."""
        if time.monotonic() < self._cleaned_at + _CLEAN_SECONDS:
            return
        self._cleaned_at = time.monotonic()
        with suppress(FileNotFoundError), os.scandir(self._spool) as entries:
            for entry in entries:
                _remove_leftover(Path(entry.path))

    def _check(self) -> None:
        with self.spool_file() as file:
            Path(file.name).unlink()
            file.write(b"check")
            file.flush()

    def _probe(self) -> None:
        """Try every operation on an object: sync, move, read and remove."""
        directory = self.root / "sha256"
        with self.spool_file() as file:
            file.write(b"check")
            file.flush()
            os.fsync(file.fileno())
            directory.mkdir(exist_ok=True)
            path = Path(file.name).rename(directory / f".{Path(file.name).name}")
            with closing(path.open("rb")) as written:
                is_good = written.read() == b"check"
            path.unlink()
        if not is_good:
            raise OSError(errno.EIO, "the bytes read differ from the bytes written", str(path))


def _each(step: Callable[[T], None], items: Iterable[T], errors: dict[T, Exception]) -> None:
    """Take a step with each item that had no error yet, and note its error."""
    for item in items:
        if item not in errors:
            try:
                step(item)
            except Exception as exc:  # noqa: BLE001 the caller of the item gets it
                errors[item] = exc


def _has(path: str, spool: Spool) -> bool:
    """Say whether a file has the content of a sealed spool; a disk may have damaged it since it was written."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            is_same_size = os.fstat(file.fileno()).st_size == spool.size
            is_same = is_same_size and file_digest(file, "sha256").hexdigest() == spool.sha256
    except OSError:  # writing tells what is wrong
        return False
    if not is_same:
        log.warning("object_damaged", key=spool.key)
    return is_same


def _listed(prefix: str, entry: os.DirEntry[str]) -> Listed | None:
    """Return the listing's entry for a file; None if it is not an object, or gone."""
    if not KEY.fullmatch(f"{prefix}{entry.name}") or not entry.is_file():
        return None
    try:
        found = entry.stat()
    except FileNotFoundError:
        return None
    return Listed(f"{prefix}{entry.name}", found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _remove_leftover(path: Path) -> None:
    """Remove a spool file whose owner is dead: a living owner holds a lock on it."""
    with suppress(OSError), path.open("r+b") as file:  # NFS locks only writable files
        if lock(file) or os.fstat(file.fileno()).st_mtime < time.time() - _LEFTOVER_SECONDS:
            path.unlink()


def lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed or this process dies; return False if its file system has no locks.

    Raises BlockingIOError if another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def sync(directory: str | Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
