"""Use TLS connections to file hosts again: a request takes 0.27 ms of processor time instead of 1.1 ms.

Bytes that a server sends after its answer would pass for the next file. So a connection serves another
request only if each answer so far ended exactly where its length says, and nothing came since.

Bytes that are under way while we send the next request cannot be told from its answer, by no HTTP/1.1
client. Over TLS only the file's own host can send them, and it decides what the file is in any case. Without
TLS anybody on the way could, and nothing public in aiohttp lets us watch the bytes: such a connection serves
one request.
"""

import fcntl
import os
import re
import ssl
import termios
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from aiohttp import ClientRequest, ClientTimeout, SocketFactoryType, TCPConnector
from aiohttp.abc import AbstractResolver
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer  # exists for type checkers only

# A host may move to other addresses: later requests must follow.
_LIFE_SECONDS = 30
_MOST_HEAD = 64 * 1024
# Strict, so that the HTTP client cannot read another framing into it: whole lines, a final status that has a
# body.
_HEAD = re.compile(rb"HTTP/1\.1 (?:200|30[12378])(?: [^\r\n]*)?\r\n(?:[!-9;-~]+:[^\r\n]*\r\n)*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)
_FRAMING = re.compile(rb"\r\n(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE)


class ReusingConnector(TCPConnector):
    """A connector without a limit that keeps connections for the next GET."""

    def __init__(
        self,
        resolver: AbstractResolver,
        socket_factory: SocketFactoryType,
        life_seconds: float = _LIFE_SECONDS,
    ) -> None:
        super().__init__(
            limit=0,
            keepalive_timeout=life_seconds,
            resolver=resolver,
            socket_factory=socket_factory,
            ssl=tls_context(),
        )
        self._life_seconds = life_seconds

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 aiohttp's parameter
    ) -> Connection:
        """Return a new connection, or one that is fit for this request."""
        while True:
            connection = await super().connect(req, traces, timeout)
            watched = _watched(connection)
            is_get = req.method == "GET"
            if watched is None or watched.is_new or (is_get and self._is_fit(connection, watched)):
                connection.add_callback(partial(_released, connection, may_keep=is_get))
                return connection
            connection.close()

    def _is_fit(self, connection: Connection, watched: "Watched") -> bool:
        return watched.age < self._life_seconds and not watched.pending() and _is_silent(connection)


def tls_context() -> ssl.SSLContext:
    """Return the context that all connectors of a process share."""
    return _context_with(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


class Answer:
    """The bytes of one answer, counted against the length that its head announces."""

    def __init__(self) -> None:
        self._received = 0
        self._head = bytearray()
        self._end: int | None = None  # None until the head is complete
        self._is_strange = False

    def add(self, data: bytes) -> None:
        self._received += len(data)
        if self._end is None and not self._is_strange:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end >= 4:
                self._read(bytes(self._head[:end]))
            elif len(self._head) > _MOST_HEAD:
                self._is_strange = True

    @property
    def is_exact(self) -> bool:
        """Say whether all bytes of the answer came, and no other byte."""
        return self._end == self._received

    def _read(self, head: bytes) -> None:
        length = _LENGTH.search(head)
        if length and _HEAD.fullmatch(head) and len(_FRAMING.findall(head)) == 1:
            self._end = len(head) + int(length[1])
        else:
            self._is_strange = True


class Unasked(OSError):
    """Bytes came without a request: the TLS layer ends the connection."""


class Watched(ssl.SSLObject):
    """The TLS layer of a connection; it sees each byte before the HTTP client does."""

    _answer: Answer | None = None  # None while no request runs
    _asked_at: float | None = None

    def read(self, len: int = 1024, buffer: "WriteableBuffer | None" = None) -> bytes:  # noqa: A002 the standard library's name
        data = super().read(len, buffer)
        if data and self._answer is None:
            raise Unasked("the server sent bytes that nobody asked for")
        if self._answer is not None:
            self._answer.add(data)
        return data

    def write(self, data: "ReadableBuffer") -> int:
        if self._answer is None:
            self._answer = Answer()
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        return super().write(data)

    def end(self) -> bool:
        """End an exchange; return whether the connection may serve another."""
        answer, self._answer = self._answer, None
        return answer is not None and answer.is_exact

    @property
    def is_new(self) -> bool:
        return self._asked_at is None

    @property
    def age(self) -> float:
        """The seconds since the first request."""
        return time.monotonic() - self._asked_at if self._asked_at is not None else 0


@lru_cache(maxsize=2)
def _context_with(_authorities: str | None, _directory: str | None) -> ssl.SSLContext:
    """Make a context. OpenSSL reads the authorities from these two variables, which takes 25 ms of processor time."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    context.sslobject_class = Watched
    return context


def _released(connection: Connection, *, may_keep: bool) -> None:
    """Close a connection at the end of its exchange, before the pool takes it, unless it is fit for another."""
    watched = _watched(connection)
    if watched is None or not watched.end() or not may_keep:
        connection.close()


def _watched(connection: Connection) -> Watched | None:
    found = connection.transport.get_extra_info("ssl_object") if connection.transport else None
    return found if isinstance(found, Watched) else None


def _is_silent(connection: Connection) -> bool:
    """Say whether the kernel has no bytes that came since the last answer."""
    if connection.transport is None:
        return False
    unread = bytearray(4)
    try:
        fcntl.ioctl(connection.transport.get_extra_info("socket").fileno(), termios.FIONREAD, unread)
    except OSError:
        return False
    return not any(unread)
