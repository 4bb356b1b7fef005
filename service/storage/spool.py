"""Buffer a stream of unknown length: the first MiB in memory, more on disk."""

from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import IO

from service.storage.filetype import detect

_MEMORY_BYTES = 1024**2
_SAMPLE_BYTES = 64 * 1024


def object_key(sha256: str) -> str:
    """Return the key of the object whose content has this hash, in hexadecimal digits."""
    return f"sha256/{sha256[:2]}/{sha256[2:]}"


class Spool:
    """A buffered stream: call `add` on the event loop; all other methods block and belong in threads.

    A cancelled task leaves its thread running, so `close` waits for it: a descriptor that is closed under a
    write could belong to another file by then. A thread holds the lock while it uses the file.
    """

    def __init__(self, create: Callable[[], IO[bytes]], file_name: str | None) -> None:
        self.size = 0
        self.sha256 = self.key = ""  # set by `finish`, as is the type
        self.detected_type: str | None = None
        self.is_large = False
        self.buffer = bytearray()
        self.file: IO[bytes] | None = None  # None while all content is in the buffer
        self._create = create
        self._file_name = file_name
        self._head = self._tail = b""
        self._hash = sha256()
        self.lock = Lock()
        self._closed = False

    def add(self, chunk: bytes) -> bool:
        """Take a chunk; True means that `flush` is due."""
        self.buffer += chunk
        self.size += len(chunk)
        is_due = len(self.buffer) >= _MEMORY_BYTES
        self.is_large |= is_due
        return is_due

    def flush(self) -> None:
        """Move the buffer to the file."""
        with self.lock:
            self.to_file()
            self._digest()
            self.buffer = bytearray()

    def finish(self) -> None:
        """Complete the file, if there is one, and detect its hash and type."""
        with self.lock:
            self._digest()
            if self.file:
                self.to_file()
                self.file.flush()
        self.sha256 = self._hash.hexdigest()
        self.key = object_key(self.sha256)
        self.detected_type = detect(self._head, self._tail, self._file_name)

    def to_file(self) -> IO[bytes]:
        """Append the buffer to the file, creating it if needed; the caller holds the lock."""
        if self._closed:
            raise ValueError("the spool is closed")
        if self.file is None:
            self.file = self._create()
        self.file.write(self.buffer)
        return self.file

    def close(self) -> None:
        """Remove the file, unless it was moved away."""
        with self.lock, suppress(OSError):
            self._closed = True
            if self.file:
                name = self.file.name
                try:
                    self.file.close()
                finally:
                    if isinstance(name, str):
                        Path(name).unlink(missing_ok=True)

    def _digest(self) -> None:
        self._hash.update(self.buffer)
        self._head = self._head or bytes(self.buffer[:_SAMPLE_BYTES])
        self._tail = (self._tail + self.buffer[-_SAMPLE_BYTES:])[-_SAMPLE_BYTES:]
