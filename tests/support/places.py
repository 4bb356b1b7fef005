"""Storages past the service: a directory, and a bucket of the S3 server."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from service.storage import objects
from service.storage.objects import Listed, Storage
from tests.support.s3 import Bucket

PREFIX = "prefix"


class Place(Protocol):
    """A storage with the rights of its owner."""

    @property
    def url(self) -> str: ...

    async def objects(self) -> dict[str, bytes]:
        """Return all objects by key, with partial and left-over files."""

    async def place(self, key: str, content: bytes) -> None: ...

    async def remove(self, key: str) -> None: ...

    async def writes(self) -> Sequence[object]:
        """Return a value that differs after each write."""


@dataclass(frozen=True)
class Directory:
    root: Path

    @property
    def url(self) -> str:
        return self.root.as_uri()

    async def objects(self) -> dict[str, bytes]:
        return await asyncio.to_thread(lambda: {self._key(path): path.read_bytes() for path in self._files()})

    async def place(self, key: str, content: bytes) -> None:
        def place() -> None:
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        await asyncio.to_thread(place)

    async def remove(self, key: str) -> None:
        await asyncio.to_thread((self.root / key).unlink)

    async def writes(self) -> Sequence[object]:
        return await asyncio.to_thread(
            lambda: sorted((path, path.stat().st_ino, path.stat().st_mtime_ns) for path in self._files())
        )

    def _files(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file()]

    def _key(self, path: Path) -> str:
        return str(path.relative_to(self.root))


@dataclass(frozen=True)
class InBucket:
    bucket: Bucket

    @property
    def url(self) -> str:
        return f"s3://{self.bucket.name}/{PREFIX}"

    async def objects(self) -> dict[str, bytes]:
        assert await self.bucket.unfinished() == []
        found = await self.bucket.objects()
        return {name.removeprefix(f"{PREFIX}/"): content for name, content in found.items()}

    async def place(self, key: str, content: bytes) -> None:
        await self.bucket.place(f"{PREFIX}/{key}", content)

    async def remove(self, key: str) -> None:
        await self.bucket.remove(f"{PREFIX}/{key}")

    async def writes(self) -> Sequence[object]:
        return [kind for kind in self.bucket.requests if kind not in {"head", "get"}]


def key(content: bytes) -> str:
    digest = sha256(content).hexdigest()
    return f"sha256/{digest[:2]}/{digest[2:]}"


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 64 * 1024):
        await asyncio.sleep(0)
        yield content[start : start + 64 * 1024]


async def read(storage: Storage, name: str) -> bytes:
    opened = await objects.open(storage, name)
    return b"".join([chunk async for chunk in opened.chunks])


async def listed(storage: Storage, prefix: str = "sha256/") -> list[Listed]:
    return [each async for each in objects.listing(storage, prefix)]


SMALL = b"%PDF-1.4 small"
LARGE = random.Random(1).randbytes(3 * 1024**2 + 17)  # spooled on disk, and put at once
LARGEST = random.Random(2).randbytes(11 * 1024**2 + 17)  # put into a bucket in three parts
