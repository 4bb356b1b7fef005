"""What every kind of storage can do, and what it tells of an object."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Literal, Protocol

from service.storage.spool import Spool

Method = Literal["GET", "HEAD"]

KEY = re.compile(r"sha256/[0-9a-f]{2}/[0-9a-f]{62}")
ALL = "sha256/"
RANGES = tuple(f"{ALL}{number:02x}/" for number in range(256))


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing has it: its size in bytes, and when it was put."""

    key: str
    size: int
    modified: datetime


class Storage(Protocol):
    """Where objects are kept; what it raises is the vendor's, and translated in `objects`."""

    def spool_file(self) -> IO[bytes]:
        """Make a file for what does not fit into memory; blocks."""

    def spool_directory(self) -> str:
        """Name the place of these files, once there was one."""

    async def size(self, key: str) -> int:
        """Raise FileNotFoundError if there is no such object."""

    async def read(self, key: str, start: int, end: int) -> bytes: ...

    async def write(self, spool: Spool) -> None:
        """Finish the spool and make the object whole or not at all, unless one of its key and size is there."""

    def pages(self, prefix: str) -> AsyncIterator[Sequence[Listed]]:
        """List what is there, page by page; `prefix` is ALL or one of RANGES."""

    async def remove(self, key: str) -> None:
        """Remove an object, if it is there."""

    async def sign(self, key: str, method: Method, expires: timedelta) -> str | None:
        """Make an address that needs no credentials; None if that cannot be done here."""

    async def check(self) -> None: ...

    async def probe(self) -> bool:
        """Write, read and delete something; False if all but the last can be done."""
