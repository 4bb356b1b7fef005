"""Put, open, stat, list, sign, check and remove objects, in any kind of storage."""

import asyncio
import errno
import re
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.errors import Permanent, Transient
from service.storage.disk import Disk
from service.storage.interface import ALL, HEAD_KEY, KEY, RANGES, Listed, Method, Storage
from service.storage.spool import Spool

__all__ = [
    "Listed",
    "Opened",
    "Storage",
    "StoredObject",
    "check",
    "digest",
    "heads",
    "keep_head",
    "listing",
    "open",
    "open_storage",
    "probe",
    "put",
    "ranges",
    "read_head",
    "remove",
    "remove_head",
    "sign",
    "stat",
]

_CHUNK_BYTES = 2 * 1024**2
_FEW = 1_000  # a page, for most vendors
_FEW_BYTES = 256 * 1024
# The classes of a panic in the client; one of them is not an Exception. The client also prints a line to
# stderr.
_PANICS = {"RustPanic", "PanicException"}
# The classes of the client's errors, and the vendors' words, that refuse the removal of an object.
_REFUSALS = {"PermissionDeniedError", "PreconditionError", "AlreadyExistsError"}
_REFUSED_REMOVAL = re.compile(
    r"\b(AccessDenied|ObjectLocked|retentionPolicyNotMet|objectUnderActiveHold|BlobImmutableDueToPolicy"
    r"|BlobImmutableDueToLegalHold|InvalidObjectState)\b"
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, or a limit on it


@dataclass(frozen=True)
class StoredObject:
    """A durably stored object; the type is detected from its bytes, and None if they do not tell.

    `note` is what `put` was told about it before it was written.
    """

    sha256: str
    size: int
    detected_type: str | None
    key: str
    note: int | None = None


@dataclass(frozen=True)
class Opened:
    """An opened object; it needs no closing."""

    size: int
    chunks: AsyncIterator[bytes]


def open_storage(url: str, is_first: Callable[[], Awaitable[bool]] | None = None) -> Storage:
    """Open a file, s3, gs or az URL without a request to it.

    A directory that has nothing yet is used only if `is_first` returns True: its volume may not be mounted. What `is_first`
    raises comes from the first write or check.

    Raises SettingsError, and Transient for an error of the vendor's client, if a variable or the URL is
    wrong.
    """
    if url.startswith("file:"):
        return Disk(Path(unquote(urlsplit(url).path)), is_first)
    with _translated():
        from service.storage.cloud import Cloud  # noqa: PLC0415 a disk needs no client of the vendors

        return Cloud.open(url)


async def put(
    storage: Storage,
    chunks: AsyncIterable[bytes],
    file_name: str | None,
    keep_note: Callable[[str], Awaitable[int]] | None = None,
) -> StoredObject:
    """Store the bytes of a stream; if the stream raises, nothing is stored. The file name only helps to detect the type.

    `keep_note` is called with the key before anything appears under it. Raises its errors, Transient("storage_unavailable")
    and Transient("storage_full").
    """
    with _translated(storage):
        await storage.ready()
    spool = Spool(storage.spool_file, file_name)
    try:
        async for chunk in chunks:
            if spool.add(chunk):
                with _translated(storage):
                    await asyncio.to_thread(spool.flush)
        with _translated(storage):
            # To hash a few bytes takes no longer than a switch of threads.
            await asyncio.to_thread(spool.seal) if spool.size > _FEW_BYTES else spool.seal()
        number = await keep_note(spool.key) if keep_note else None
        with _translated(storage):
            await storage.write(spool)
        return StoredObject(spool.sha256, spool.size, spool.detected_type, spool.key, number)
    finally:
        if spool.is_large:  # otherwise there is no file, or its writer closes it
            await asyncio.shield(asyncio.to_thread(spool.close))


async def open(storage: Storage, key: str) -> Opened:  # noqa: A001 callers write storage.open
    """Open an object; it is read in pieces, so a slow reader holds no connection.

    Raises Permanent("object_missing") and Transient("storage_unavailable"), also while it is read.
    """
    size = await stat(storage, key)
    return Opened(size, _chunks(storage, key, size))


async def stat(storage: Storage, key: str) -> int:
    """Return an object's size in bytes; raises as `open` does."""
    _guard(key)
    with _translated(storage, key):
        return await storage.size(key)


async def digest(storage: Storage, key: str) -> tuple[str, int]:
    """Read an object; return the hexadecimal SHA-256 of its bytes, and their number; raises as `open` does."""
    found = sha256()
    opened = await open(storage, key)
    async for chunk in opened.chunks:
        await asyncio.to_thread(found.update, chunk)
    return found.hexdigest(), opened.size


async def listing(storage: Storage, prefix: str) -> AsyncGenerator[Listed, None]:
    """List all objects (`sha256/`), or one of 256 ranges (`sha256/ab/`), without order; skip other files.

    Memory holds at most a page, or a range of a disk. Objects that are put or removed meanwhile may be
    missing. Raises Transient("storage_unavailable"), also if a disk never had an object: it may not be
    mounted.
    """
    if prefix != ALL and prefix not in RANGES:
        raise ValueError(f"no range of keys begins with {prefix!r}")
    pages = storage.pages(prefix)
    while True:
        with _translated(storage):
            page = await anext(pages, None)
        if page is None:
            return
        for each in page:
            yield each


async def ranges(storage: Storage) -> Sequence[str]:
    """Return the ranges to list in turn for all objects: a single one if few are stored, or else 256 smaller ones.

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
    """Remove an object; a missing object is no error.

    Only for an object that no e-mail needs and no process is putting: a put that finds its object does not
    write it. Raises Permanent("object_locked") if the storage refuses it, and Transient("storage_unavailable").
    """
    _guard(key)
    with _translated(storage, key), _lock_translated():
        await storage.remove(key)


async def keep_head(storage: Storage, key: str, content: bytes) -> None:
    """Store a head of the evidence log, unless there is one of this key; raises as `put` does."""
    _guard(key, HEAD_KEY)
    with _translated(storage):
        await storage.ready()
        await storage.keep(key, content)


async def heads(storage: Storage) -> list[str]:
    """Return the keys of all heads in order; raises Transient("storage_unavailable")."""
    found: list[str] = []
    with _translated(storage):
        async for page in storage.heads():
            found += page
    return sorted(found)


async def read_head(storage: Storage, key: str, most: int = 64 * 1024) -> bytes:
    """Read a head; raises as `open` does."""
    _guard(key, HEAD_KEY)
    with _translated(storage, key):
        return await storage.read(key, 0, min(await storage.size(key), most))


async def remove_head(storage: Storage, key: str) -> None:
    """Remove a head that another storage has; raises as `remove` does."""
    _guard(key, HEAD_KEY)
    with _translated(storage, key), _lock_translated():
        await storage.remove(key)


async def sign(storage: Storage, key: str, *, method: Method, expires: timedelta) -> str | None:
    """Return a URL that lets anyone read an object for a while; keep it as secret as a password.

    None if the storage cannot sign: a disk, or without credentials to sign with. The object may not exist.
    Raises Transient("storage_unavailable") if another server has to sign.
    """
    _guard(key)
    with _translated(storage):
        return await storage.sign(key, method, expires)


async def check(storage: Storage) -> None:
    """Raise Transient, as `put` does, unless we can write and read; checks leave at most one small object."""
    with _translated(storage):
        await storage.ready()
        await storage.check()


async def probe(storage: Storage) -> bool:
    """Write, read and delete, when a person asks; return False if only the delete fails. Raises as `check` does."""
    with _translated(storage):
        await storage.ready()
        return await storage.probe()


def _guard(key: str, form: re.Pattern[str] = KEY) -> None:
    if not form.fullmatch(key):
        raise Permanent("object_missing", f"no object can have the key {key[:100]!r}")


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
    """Translate errors to Permanent("object_missing"), Transient("storage_full") or Transient("storage_unavailable")."""
    try:
        yield
    except _errors() as exc:
        if key and isinstance(exc, FileNotFoundError):
            raise Permanent("object_missing", f"the object {key} is not in storage") from None
        # Vendors' messages are long, and their addresses may be signed or hold a password: keep one line,
        # without query strings and without XML but its code.
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
        raise Transient("storage_unavailable", f"storage: the vendor's client crashed; {cause}") from None


@contextmanager
def _lock_translated() -> Iterator[None]:
    """Translate a refusal to remove: a lock of the object, a retention policy, or a missing right."""
    try:
        yield
    except _errors() as exc:
        refusal = _REFUSED_REMOVAL.search(str(exc))
        if isinstance(exc, PermissionError) or type(exc).__name__ in _REFUSALS or refusal:
            what = refusal[1] if refusal else type(exc).__name__
            raise Permanent("object_locked", f"the storage refuses to remove the object: {what}") from None
        raise


def _errors() -> tuple[type[Exception], ...]:
    """Return the classes of expected errors, with the vendors' client if it is in use."""
    client = sys.modules.get("obstore.exceptions")
    return (OSError, ValueError, *([client.BaseError] if client else []))
