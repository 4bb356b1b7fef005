"""Put, open, stat and check objects, wherever they are kept."""

import asyncio
import errno
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError

from service.errors import Permanent, Transient
from service.storage.cloud import Cloud
from service.storage.disk import Disk
from service.storage.spool import Spool

_CHUNK_BYTES = 2 * 1024**2
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, or a limit on it
_KEY = re.compile(r"sha256/[0-9a-f]{2}/[0-9a-f]{62}")


class Storage(Protocol):
    """Where objects are kept; what it raises is the vendor's, and translated here."""

    def spool_file(self) -> IO[bytes]:
        """Make a file for what does not fit into memory; blocks."""

    def spool_directory(self) -> str:
        """Name the place of these files, once there was one."""

    async def size(self, key: str) -> int:
        """Raise FileNotFoundError if there is no such object."""

    async def read(self, key: str, start: int, end: int) -> bytes: ...

    async def write(self, spool: Spool) -> None:
        """Finish the spool and make the object whole or not at all, unless one of its key and size is there."""

    async def check(self) -> None: ...

    async def probe(self) -> bool:
        """Write, read and delete something; False if all but the last can be done."""


@dataclass(frozen=True)
class Stored:
    """An object that is in storage for good; the type is what its bytes look like, if like anything."""

    sha256: str
    size: int
    detected_type: str | None
    key: str


@dataclass(frozen=True)
class Opened:
    """An object to be read; there is nothing to close."""

    size: int
    chunks: AsyncIterator[bytes]


def open_storage(url: str) -> Storage:
    """Open a file, s3, gs or az URL without touching what it names."""
    if url.startswith("file:"):
        return Disk(Path(unquote(urlsplit(url).path)))
    with _translated():
        return Cloud.open(url)


async def put(storage: Storage, chunks: AsyncIterable[bytes], file_name: str | None) -> Stored:
    """Store what the stream gives; if it raises, nothing is stored. The name only helps to tell the type.

    Raises Transient("storage_unavailable") and Transient("storage_full").
    """
    spool = Spool(storage.spool_file, file_name)
    try:
        async for chunk in chunks:
            if spool.add(chunk):
                with _translated(storage):
                    await asyncio.to_thread(spool.flush)
        with _translated(storage):
            await storage.write(spool)
        return Stored(spool.sha256, spool.size, spool.detected_type, spool.key)
    finally:
        if spool.is_large:  # else there is no file, or its writer closes it
            await asyncio.shield(asyncio.to_thread(spool.close))


async def open(storage: Storage, key: str) -> Opened:  # noqa: A001 the word for it, used as storage.open
    """Open an object; it is read piece by piece, so a slow reader holds no connection.

    Raises Permanent("object_missing") and Transient("storage_unavailable"), also while it is read.
    """
    size = await stat(storage, key)
    return Opened(size, _chunks(storage, key, size))


async def stat(storage: Storage, key: str) -> int:
    """Give an object's size in bytes; raises as `open` does."""
    if not _KEY.fullmatch(key):
        raise Permanent("object_missing", f"no object can have the key {key[:100]!r}")
    with _translated(storage, key):
        return await storage.size(key)


async def check(storage: Storage) -> None:
    """Raise Transient, as `put` does, unless we can write and read; leaves nothing that adds up."""
    with _translated(storage):
        await storage.check()


async def probe(storage: Storage) -> bool:
    """Write, read and delete for a person who asks; False if all but the last can be done. Raises as `check`."""
    with _translated(storage):
        return await storage.probe()


async def _chunks(storage: Storage, key: str, size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, _CHUNK_BYTES):
        end = min(start + _CHUNK_BYTES, size)
        with _translated(storage, key):
            chunk = await storage.read(key, start, end)
        if len(chunk) != end - start:
            raise Transient("storage_unavailable", f"the object {key} is shorter than it was")
        yield chunk


@contextmanager
def _translated(storage: Storage | None = None, key: str | None = None) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as exc:
        if key and isinstance(exc, FileNotFoundError):
            raise Permanent("object_missing", f"the object {key} is not in storage") from None
        # Vendors tell whole stories, with addresses that may be signed: no query string, no XML but its code.
        line = re.sub(r"\?\S*|\s*<.*", "", str(exc).partition("\n")[0])[:500]
        reason = re.search(r"<Code>(\w+)</Code>", str(exc))
        line = f"{reason[1]}: {line}" if reason else line
        code = "storage_unavailable"
        if isinstance(exc, OSError) and exc.errno in _FULL:
            code = "storage_full"
            if storage and not exc.filename:
                line = f"{line} in {storage.spool_directory()}"
        raise Transient(code, f"storage: {type(exc).__name__}: {line or 'no answer in time'}") from None
