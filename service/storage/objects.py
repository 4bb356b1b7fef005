"""Put, open, stat, list, sign, check and remove objects, wherever they are kept."""

import asyncio
import errno
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError

from service.errors import Permanent, Transient
from service.storage.cloud import Cloud
from service.storage.disk import Disk
from service.storage.port import ALL, KEY, RANGES, Listed, Method, Storage
from service.storage.spool import Spool

__all__ = [
    "Listed",
    "Opened",
    "Storage",
    "StoredObject",
    "check",
    "digest",
    "listing",
    "open",
    "open_storage",
    "probe",
    "put",
    "ranges",
    "remove",
    "sign",
    "stat",
]

_CHUNK_BYTES = 2 * 1024**2
_FEW = 1_000  # a page, for most vendors


@dataclass(frozen=True)
class StoredObject:
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
    """Open a file, s3, gs or az URL without touching what it names.

    Raises SettingsError, and Transient for what the vendor's client says, if a variable or the URL is wrong.
    """
    if url.startswith("file:"):
        return Disk(Path(unquote(urlsplit(url).path)))
    with translated():
        return Cloud.open(url)


async def put(storage: Storage, chunks: AsyncIterable[bytes], file_name: str | None) -> StoredObject:
    """Store what the stream gives; if it raises, nothing is stored. The name only helps to tell the type.

    Raises Transient("storage_unavailable") and Transient("storage_full").
    """
    spool = Spool(storage.spool_file, file_name)
    try:
        async for chunk in chunks:
            if spool.add(chunk):
                with translated(storage):
                    await asyncio.to_thread(spool.flush)
        with translated(storage):
            await storage.write(spool)
        return StoredObject(spool.sha256, spool.size, spool.detected_type, spool.key)
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
    _guard(key)
    with translated(storage, key):
        return await storage.size(key)


async def digest(storage: Storage, key: str) -> tuple[str, int]:
    """Read an object, and give the SHA-256 of its bytes in hexadecimal digits and their number; raises as `open` does."""
    found = sha256()
    opened = await open(storage, key)
    async for chunk in opened.chunks:
        await asyncio.to_thread(found.update, chunk)
    return found.hexdigest(), opened.size


async def listing(storage: Storage, prefix: str) -> AsyncGenerator[Listed, None]:
    """List all objects (`sha256/`), or those of one range of 256 (`sha256/ab/`), in no order, and nothing else that is there.

    No more than a page, or a range of a disk, is held in memory. What is put or removed meanwhile may be missing.
    Raises Transient("storage_unavailable"), also where nothing was ever stored on a disk: it may not be mounted.
    """
    if prefix != ALL and prefix not in RANGES:
        raise ValueError(f"no range of keys begins with {prefix!r}")
    pages = storage.pages(prefix)
    while True:
        with translated(storage):
            page = await anext(pages, None)
        if page is None:
            return
        for each in page:
            yield each


async def ranges(storage: Storage) -> Sequence[str]:
    """Give what to list one after the other for all objects: one range where few are stored, else 256 smaller ones.

    Raises as `listing` does.
    """
    count = 0
    async with aclosing(listing(storage, ALL)) as found:
        async for _ in found:
            count += 1
            if count > _FEW:
                return RANGES
    return (ALL,)


async def remove(storage: Storage, key: str) -> None:
    """Remove an object; that it is gone already is no error.

    Only for what no e-mail needs, and nobody may be putting: a put that finds the object there writes none.
    Raises Transient("storage_unavailable").
    """
    _guard(key)
    with translated(storage, key):
        await storage.remove(key)


async def sign(storage: Storage, key: str, *, method: Method, expires: timedelta) -> str | None:
    """Make an address at which a stranger can read an object for a while, a secret as a password is.

    None where there is none: on a disk, and where there are no credentials to sign with. It is not looked whether
    the object is there. Raises Transient("storage_unavailable"), where another server has to sign.
    """
    _guard(key)
    with translated(storage):
        return await storage.sign(key, method, expires)


async def check(storage: Storage) -> None:
    """Raise Transient, as `put` does, unless we can write and read; leaves nothing that adds up."""
    with translated(storage):
        await storage.check()


async def probe(storage: Storage) -> bool:
    """Write, read and delete for a person who asks; False if all but the last can be done. Raises as `check`."""
    with translated(storage):
        return await storage.probe()


def _guard(key: str) -> None:
    if not KEY.fullmatch(key):
        raise Permanent("object_missing", f"no object can have the key {key[:100]!r}")


async def _chunks(storage: Storage, key: str, size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, _CHUNK_BYTES):
        end = min(start + _CHUNK_BYTES, size)
        with translated(storage, key):
            chunk = await storage.read(key, start, end)
        if len(chunk) != end - start:
            raise Transient("storage_unavailable", f"the object {key} is shorter than it was")
        yield chunk


# What becomes of a panic of the client, beside a line of its own on stderr; one of them is no Exception.
_PANICS = {"RustPanic", "PanicException"}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, or a limit on it


@contextmanager
def translated(storage: Storage | None = None, key: str | None = None) -> Iterator[None]:
    """Raise Permanent("object_missing"), Transient("storage_full") or Transient("storage_unavailable")."""
    try:
        yield
    except (BaseError, OSError, ValueError) as exc:
        if key and isinstance(exc, FileNotFoundError):
            raise Permanent("object_missing", f"the object {key} is not in storage") from None
        # Vendors tell whole stories, with addresses that may be signed, or hold a password: none of it, no query string,
        # no XML but its code.
        line = re.sub(r"(?<=//)\S*@|\?\S*|\s*<.*", "", str(exc).partition("\n")[0])[:500]
        reason = re.search(r"<Code>(\w+)</Code>", str(exc))
        line = f"{reason[1]}: {line}" if reason else line
        code = "storage_unavailable"
        if isinstance(exc, OSError) and exc.errno in _FULL:
            code = "storage_full"
            if storage and not exc.filename:
                line = f"{line} in {storage.spool_directory()}"
        raise Transient(code, f"storage: {type(exc).__name__}: {line or 'no answer in time'}") from None
    except BaseException as exc:
        if type(exc).__name__ not in _PANICS:
            raise
        cause = "something may be wrong with its variables, or with the URL"
        raise Transient("storage_unavailable", f"storage: the vendor's client broke down; {cause}") from None
