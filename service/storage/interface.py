"""The port of storage: the operations that every kind has, and the entries of a listing."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Literal, Protocol

from service.storage.spool import Spool

Method = Literal["GET", "HEAD"]

KEY = re.compile(r"sha256/[0-9a-f]{2}/[0-9a-f]{62}")
ALL = "sha256/"
# Heads of the evidence log, and their time stamps, are the only objects that are not named by their content.
HEAD_KEY = re.compile(r"heads/[0-9a-f]{32}/[0-9]{12}(-[0-9a-f]{16})?\.(json|tsr)")
HEADS = "heads/"
RANGES = tuple(f"{ALL}{number:02x}/" for number in range(256))


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing: its size in bytes, and the time of its put."""

    key: str
    size: int
    modified: datetime


class Storage(Protocol):
    """A storage of objects; `objects` translates the vendor's errors."""

    async def ready(self) -> None:
        """Raise OSError if the volume of earlier writes is not mounted, and what `is_first` of `open_storage` raises."""

    def spool_file(self) -> IO[bytes]:
        """Create a file for content that does not fit into memory; blocks."""

    def spool_directory(self) -> str:
        """Return the directory of these files, once one was created."""

    async def size(self, key: str) -> int:
        """Raise FileNotFoundError if there is no such object."""

    async def read(self, key: str, start: int, end: int) -> bytes: ...

    async def write(self, spool: Spool) -> None:
        """Finish the sealed spool and store the object whole or not at all, unless an object of its key and size exists."""

    def pages(self, prefix: str) -> AsyncIterator[Sequence[Listed]]:
        """List the objects page by page; `prefix` is ALL or one of RANGES."""

    async def keep(self, key: str, content: bytes) -> None:
        """Write a head whole or not at all; an existing one stays as it is."""

    def heads(self) -> AsyncIterator[Sequence[str]]:
        """List the keys of heads page by page."""

    async def remove(self, key: str) -> None:
        """Remove an object, if it exists."""

    async def sign(self, key: str, method: Method, expires: timedelta) -> str | None:
        """Return an address that needs no credentials; None if this storage cannot sign."""

    async def check(self) -> None: ...

    async def probe(self) -> bool:
        """Write, read and delete something; return False if only the delete fails."""
