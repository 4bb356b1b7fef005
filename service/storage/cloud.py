"""Objects in S3, Google Cloud Storage or Azure, through obstore."""

import asyncio
import atexit
import errno
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from tempfile import TemporaryFile, gettempdir
from typing import IO, TYPE_CHECKING
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError
from obstore.store import AzureStore, GCSStore, S3Store

from service.storage.interface import HEAD_KEY, HEADS, KEY, Listed, Method
from service.storage.spool import Spool
from service.storage.vendors import is_anonymous, open_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore  # exists for type checkers only

_PART_BYTES = 5 * 1024**2  # the least that S3 accepts
_UPLOADS = 4  # large uploads at once: each holds two or three parts in memory
_SECONDS = 40  # for one request and its repetitions
_UPLOAD_SECONDS = 180
_SIGN_SECONDS = 5  # a user waits for it; with keys of our own it takes no request
_PAGE = 1000  # the most objects in one answer of S3
_CHECK_KEY = "holdfast-check"
# Answers of servers that know no conditional writes; plain writes of objects need none.
_UNCONDITIONAL = re.compile(r"status code: (400|405|501)\b")

# The client's threads still release our buffers. If one of them needs the interpreter while it shuts down,
# Python before 3.14 ends that thread so that the process aborts, with another exit code.
atexit.register(time.sleep, 0.1)


@dataclass(frozen=True)
class Cloud:
    """A bucket, or a prefix in one. Credentials come from the vendor's own variables, such as AWS_*."""

    store: "ObjectStore"
    is_anonymous: bool = False
    abort_seconds: float = 2  # a shutdown waits for it
    _uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_UPLOADS))

    @classmethod
    def open(cls, url: str, *, request_seconds: float = 30) -> "Cloud":
        return cls(open_store(url, request_seconds=request_seconds), is_anonymous=is_anonymous())

    async def ready(self) -> None:
        pass

    def spool_directory(self) -> str:
        return gettempdir()

    def spool_file(self) -> IO[bytes]:
        return TemporaryFile()

    async def size(self, key: str) -> int:
        async with asyncio.timeout(_SECONDS):
            return (await obstore.head_async(self.store, key))["size"]

    async def read(self, key: str, start: int, end: int) -> bytes:
        async with asyncio.timeout(_SECONDS):
            return bytes(await obstore.get_range_async(self.store, key, start=start, end=end))

    async def write(self, spool: Spool) -> None:
        await asyncio.to_thread(spool.finish)
        key = spool.key
        with suppress(FileNotFoundError, PermissionDeniedError):  # S3 answers 403 if we may not list
            if await self.size(key) == spool.size:
                return
        if spool.file is None:
            await self._upload(key, spool.content())
        else:
            async with self._uploads:
                await asyncio.to_thread(spool.file.seek, 0)
                if spool.size <= _PART_BYTES:
                    await self._upload(key, await asyncio.to_thread(spool.file.read))
                else:
                    await self._upload_in_parts(key, spool.file)
        with suppress(PermissionDeniedError):  # we may only have the right to write
            if await self.size(key) != spool.size:
                raise OSError(errno.EIO, "the bucket accepted the object, but holds only a part of it")

    async def pages(self, prefix: str) -> AsyncIterator[Sequence[Listed]]:
        stream = aiter(obstore.list(self.store, prefix, chunk_size=_PAGE))
        while True:
            async with asyncio.timeout(_SECONDS):
                found = await anext(stream, None)
            if found is None:
                return
            yield [
                Listed(each["path"], each["size"], each["last_modified"])
                for each in found
                if KEY.fullmatch(each["path"])
            ]

    async def keep(self, key: str, content: bytes) -> None:
        async with asyncio.timeout(_SECONDS):
            try:
                await obstore.put_async(self.store, key, content, mode="create")
            except AlreadyExistsError:
                pass
            except BaseError as exc:
                if not _UNCONDITIONAL.search(str(exc)):
                    raise
                with suppress(FileNotFoundError):
                    await obstore.head_async(self.store, key)
                    return
                await obstore.put_async(self.store, key, content, use_multipart=False)

    async def heads(self) -> AsyncIterator[Sequence[str]]:
        stream = aiter(obstore.list(self.store, HEADS, chunk_size=_PAGE))
        while True:
            async with asyncio.timeout(_SECONDS):
                found = await anext(stream, None)
            if found is None:
                return
            yield [each["path"] for each in found if HEAD_KEY.fullmatch(each["path"])]

    async def remove(self, key: str) -> None:
        async with asyncio.timeout(_SECONDS):
            with suppress(FileNotFoundError):  # S3 does not report a missing object
                await obstore.delete_async(self.store, key)

    async def sign(self, key: str, method: Method, expires: timedelta) -> str | None:
        if self.is_anonymous or not isinstance(self.store, S3Store | GCSStore | AzureStore):
            return None
        try:
            async with asyncio.timeout(_SIGN_SECONDS):
                return await obstore.sign_async(self.store, method, key, expires)
        except BaseError as exc:
            # Azure cannot sign with a SAS token; the error has no class of its own.
            if "not supported" in str(exc).partition("\n")[0]:
                return None
            raise

    async def check(self) -> None:
        """Create an object that is never overwritten, if the server can: each overwrite would fill a bucket with versions."""
        async with asyncio.timeout(_SECONDS):
            try:
                await obstore.put_async(self.store, _CHECK_KEY, b"holdfast", mode="create")
            except AlreadyExistsError:
                pass
            except BaseError as exc:
                if not _UNCONDITIONAL.search(str(exc)):
                    raise
                await obstore.put_async(self.store, _CHECK_KEY, b"holdfast", use_multipart=False)
            await obstore.head_async(self.store, _CHECK_KEY)

    async def probe(self) -> bool:
        key = f"{_CHECK_KEY}-{uuid4().hex}"
        async with asyncio.timeout(_SECONDS):
            await obstore.put_async(self.store, key, key.encode(), use_multipart=False)
            if bytes(await obstore.get_range_async(self.store, key, start=0, end=len(key))) != key.encode():
                raise OSError(errno.EIO, "the bytes read differ from the bytes written", key)
            try:
                await obstore.delete_async(self.store, key)
            except BaseError:  # S3 deletes from a list, and reports each refusal inside a 200
                return False
        return True

    async def _upload(self, key: str, content: bytes) -> None:
        async with asyncio.timeout(_UPLOAD_SECONDS):
            await obstore.put_async(self.store, key, content, use_multipart=False)

    async def _upload_in_parts(self, key: str, file: IO[bytes]) -> None:
        """Upload, and abort the upload on failure: cancelling the put would leave its parts in the bucket."""
        given_up = False

        def parts() -> Iterator[bytes]:  # threads of the client read it, and the client aborts if it raises
            while part := file.read(_PART_BYTES):
                if given_up:
                    raise InterruptedError
                yield part

        upload = asyncio.ensure_future(
            obstore.put_async(self.store, key, parts(), chunk_size=_PART_BYTES, max_concurrency=1)
        )
        upload.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # asyncio warns of an exception that is never read
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                await asyncio.wait({upload})
            upload.result()
        finally:
            given_up = True
            await asyncio.wait({upload}, timeout=self.abort_seconds)
            upload.cancel()
