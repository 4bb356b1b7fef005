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
_WRITE_BACK_BYTES = 8 * 1024**2


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
        self._held = self._begun = 0
        self._create = create
        self._file_name = file_name
        self._head = self._tail = b""
        self._hash = sha256()
        self._lock = Lock()
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
        with self._lock:
            file = self._to_file()
            self._digest()
            self._chunks, self._held = [], 0
            if self.size - self._begun >= _WRITE_BACK_BYTES and _becomes_object(file):
                self._begin_write_back(file)

    def content(self) -> bytes:
        """Return the bytes that are not in a file."""
        return b"".join(self._chunks)

    def seal(self) -> None:
        """Take no more chunks, and tell the hash and the key."""
        with self._lock:
            self._digest()
        self.sha256 = self._hash.hexdigest()
        self.key = object_key(self.sha256)

    def finish(self) -> None:
        """Complete the file of a sealed spool, if there is one, and detect its type."""
        with self._lock:
            if self.file:
                self._to_file()
                self.file.flush()
        from service.storage.filetype import detect  # noqa: PLC0415 web stores nothing, and the signatures are many

        self.detected_type = detect(self._head, self._tail, self._file_name)

    def write_back(self) -> None:
        """Write all content to the file, and let the system begin to write it to the disk."""
        with self._lock:
            self._begin_write_back(self.file or self._to_file())

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        with self._lock:
            assert self.file  # noqa: S101 `write_back` has made it
            os.fsync(self.file.fileno())

    def _to_file(self) -> IO[bytes]:
        """Append the chunks to the file, creating it if needed; the caller holds the lock."""
        if self._closed:
            raise ValueError("the spool is closed")
        if self.file is None:
            self.file = self._create()
        self.file.writelines(self._chunks)
        return self.file

    def move(self, path: str) -> None:
        """Move the file to its place."""
        with self._lock:
            assert self.file  # noqa: S101 `write_back` has made it
            os.replace(self.file.name, path)
            self._is_moved = True

    def close(self) -> None:
        """Remove the file, unless it was moved away."""
        with self._lock, suppress(OSError):
            self._closed = True
            if self.file:
                is_left = _becomes_object(self.file) and not self._is_moved
                try:
                    self.file.close()
                finally:
                    if is_left:
                        os.unlink(self.file.name)

    def _begin_write_back(self, file: IO[bytes]) -> None:
        """Let the system write the rest to the disk now: the sync of a large file has less to wait for."""
        file.flush()
        if hasattr(os, "posix_fadvise"):
            # Linux writes pages to the disk before it gives them up. It is advice: a file system may refuse it.
            with suppress(OSError):
                os.posix_fadvise(file.fileno(), self._begun, self.size - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = self.size

    def _digest(self) -> None:
        for chunk in self._chunks:
            self._hash.update(chunk)
            if len(self._head) < _SAMPLE_BYTES:
                self._head += chunk[: _SAMPLE_BYTES - len(self._head)]
            before = self._tail if len(chunk) < _SAMPLE_BYTES else b""
            self._tail = (before + chunk[-_SAMPLE_BYTES:])[-_SAMPLE_BYTES:]


def _becomes_object(file: IO[bytes]) -> bool:
    """Say whether a file is moved to its place; a temporary one has a number for its name."""
    return isinstance(file.name, str)
