"""Buffer a stream of unknown length: the first MiB in memory, more on disk."""

import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from threading import Lock
from typing import IO

_MEMORY_BYTES = 1024**2
_SAMPLE_BYTES = 64 * 1024
# Smaller chunks are joined: a list of single bytes would take much more memory than the bytes.
_PIECE_BYTES = 16 * 1024


def object_key(sha256: str) -> str:
    """Return the key of the object whose content has this hash, in hexadecimal digits."""
    return f"sha256/{sha256[:2]}/{sha256[2:]}"


def hash_of(key: str) -> str:
    """Return the hash of the content that an object has, by its key."""
    return key.removeprefix("sha256/").replace("/", "")


class Spool:
    """A buffered stream: call `add` on the event loop; all other methods block and belong in threads.

    A cancelled task leaves its thread running, so `close` waits for it: a descriptor that is closed under a
    write could belong to another file by then. A thread holds the lock while it uses the file.
    """

    def __init__(self, create: Callable[[], IO[bytes]], file_name: str | None) -> None:
        self.size = 0
        self.sha256 = self.key = ""  # set by `seal`; the type by `finish`
        self.detected_type: str | None = None
        self.is_large = False
        self.file: IO[bytes] | None = None  # None while all content is in memory
        self._chunks: list[bytes | bytearray] = []  # not in the file yet
        self._held = 0
        self._create = create
        self._file_name = file_name
        self._head = self._tail = b""
        self._hash = sha256()
        self.lock = Lock()
        self._closed = self._is_moved = False

    def add(self, chunk: bytes) -> bool:
        """Take a chunk; True means that `flush` is due."""
        last = self._chunks[-1] if self._chunks else None
        if isinstance(last, bytearray) and len(last) < _PIECE_BYTES:
            last += chunk
        else:
            self._chunks.append(chunk if len(chunk) >= _PIECE_BYTES else bytearray(chunk))
        self._held += len(chunk)
        self.size += len(chunk)
        is_due = self._held >= _MEMORY_BYTES
        self.is_large |= is_due
        return is_due

    def flush(self) -> None:
        """Move the chunks to the file."""
        with self.lock:
            self.to_file()
            self._digest()
            self._chunks, self._held = [], 0

    def content(self) -> bytes:
        """Return the bytes that are not in a file."""
        return b"".join(self._chunks)

    def seal(self) -> None:
        """Take no more chunks, and tell the hash and the key."""
        with self.lock:
            self._digest()
        self.sha256 = self._hash.hexdigest()
        self.key = object_key(self.sha256)

    def finish(self) -> None:
        """Complete the file of a sealed spool, if there is one, and detect its type."""
        with self.lock:
            if self.file:
                self.to_file()
                self.file.flush()
        from service.storage.filetype import detect  # noqa: PLC0415 web stores nothing, and the signatures are many

        self.detected_type = detect(self._head, self._tail, self._file_name)

    def to_file(self) -> IO[bytes]:
        """Append the chunks to the file, creating it if needed; the caller holds the lock."""
        if self._closed:
            raise ValueError("the spool is closed")
        if self.file is None:
            self.file = self._create()
        self.file.writelines(self._chunks)
        return self.file

    def move(self, path: str) -> None:
        """Move the file to its place; the caller holds the lock."""
        assert self.file  # noqa: S101 the caller has made it
        os.replace(self.file.name, path)
        self._is_moved = True

    def close(self) -> None:
        """Remove the file, unless it was moved away."""
        with self.lock, suppress(OSError):
            self._closed = True
            if self.file:
                name = self.file.name
                try:
                    self.file.close()
                finally:
                    if isinstance(name, str) and not self._is_moved:
                        os.unlink(name)

    def _digest(self) -> None:
        for chunk in self._chunks:
            self._hash.update(chunk)
            if len(self._head) < _SAMPLE_BYTES:
                self._head += chunk[: _SAMPLE_BYTES - len(self._head)]
            self._tail = (self._tail + chunk[-_SAMPLE_BYTES:])[-_SAMPLE_BYTES:]
