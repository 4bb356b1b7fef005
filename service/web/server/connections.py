"""The connections of the web server: accept them, close stalled ones, and keep room for new ones.

Anybody may open connections, and each takes one of the process's open files. aiohttp closes only connections that
are idle for long. Here the head of a request has a deadline, and so has the reading of an answer; near the limit the
oldest idle connections are closed for new ones.
"""

import asyncio
import socket

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from service.config.limits import file_limit
from service.config.settings import Settings
from service.telemetry.metrics import ACCEPT_FAILURES, CONNECTIONS, CONNECTIONS_CLOSED
from service.web.handling.middleware import SERVER

# From the start of the connection, or the first byte of a later request, to the end of the head.
HEAD_SECONDS = 10.0
# A client must read PROGRESS_BYTES of an answer within this time; bytes in the kernel's buffer count as read.
WRITE_SECONDS = 30.0
PROGRESS_BYTES = 48 * 1024
CHECK_SECONDS = 1.0
LOG_SECONDS = 10.0
# An idle connection takes about 10 kB, and a Heroku dyno has 512 MB for all its processes.
MOST_CONNECTIONS = 8192
# Open files besides connections and pools: modules, logs, stored objects, targets, alerts.
OWN_FILES = 100
# A process accepts so many at a time, so that the others on the port get their share.
ACCEPTED_AT_ONCE = 16
PAUSE_SECONDS = 0.1  # after a failed accept

log = structlog.get_logger()


def most_connections(settings: Settings) -> int:
    """Return how many connections fit into nine tenths of the limit on open files, besides the process's own files."""
    limit = file_limit()
    own = settings.database_pool_size + settings.redis_pool_size + OWN_FILES
    return min(MOST_CONNECTIONS, max(limit * 9 // 10 - own, limit // 4))


class Connection(RequestHandler):
    """aiohttp's protocol of a connection, with the times since when it waits for a head or a reader."""

    __slots__ = ("head_since", "unsent", "unsent_since")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.head_since: float | None = self._loop.time()
        self.unsent, self.unsent_since = 0, self._loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        known = self._request_count
        super().data_received(data)
        if self._request_count > known:
            self.head_since = None
        elif self.head_since is None and self.is_idle and data:
            self.head_since = self._loop.time()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is no valid HTTP; the application never sees it."""
        answer = super().handle_error(request, status, exc, message)
        answer.headers["Server"] = SERVER
        return answer

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unsent_since = self._loop.time()

    @property
    def is_idle(self) -> bool:
        """Whether the connection waits for a request."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def idle_since(self) -> float:
        return self._next_keepalive_close_time - self._keepalive_timeout

    def overdue(self, unsent: int, now: float, head_seconds: float, write_seconds: float) -> str | None:
        """Return the reason to close the connection, if any; `unsent` bytes are not in the kernel's buffer yet."""
        if self.head_since is not None and now - self.head_since > head_seconds:
            return "head_slow"
        if not unsent or unsent <= self.unsent - PROGRESS_BYTES:
            self.unsent, self.unsent_since = unsent, now
        self.unsent = max(self.unsent, unsent)
        return "answer_not_read" if unsent and now - self.unsent_since > write_seconds else None


class Connections(web.Server):
    """aiohttp's server with a limit of connections; `close_overdue` must run beside it."""

    def __init__(
        self,
        server: web.Server,
        most: int,
        head_seconds: float = HEAD_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        """Copy the handlers and options of the server that aiohttp made for an application."""
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            loop=server._loop,  # noqa: SLF001 aiohttp has no public access
            **server._kwargs,  # noqa: SLF001 likewise
        )
        self.most = most
        self.head_seconds = head_seconds
        self.write_seconds = write_seconds
        self._open: dict[Connection, asyncio.Transport] = {}
        self._listeners: list[socket.socket] = []
        self._accepting: set[asyncio.Task[object]] = set()
        self._logged_at = float("-inf")
        self._unlogged = 0

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if isinstance(handler, Connection):
            full = len(self._open) >= self.most
            self._open[handler] = transport
            CONNECTIONS.set(len(self._open))
            if full and not self._close_oldest(except_for=handler):
                self._close(handler, "no_room")

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if isinstance(handler, Connection):
            self._open.pop(handler, None)
            CONNECTIONS.set(len(self._open))

    def listen(self, listener: socket.socket) -> None:
        """Accept connections on this socket until `stop`.

        When the process has no file left, the event loop's own server drops connections silently, and may close the
        socket for good. Here they wait in the kernel's queue, and the log says so.
        """
        listener.setblocking(False)
        self._listeners.append(listener)
        self._loop.add_reader(listener, self._accept, listener)

    async def stop(self) -> None:
        """Stop accepting; accepted connections are still answered."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        if self._accepting:
            await asyncio.wait(self._accepting)

    async def close_overdue(self) -> None:
        """Close connections that are overdue, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = self._loop.time()
            for connection, transport in list(self._open.items()):
                unsent = transport.get_write_buffer_size()
                if reason := connection.overdue(unsent, now, self.head_seconds, self.write_seconds):
                    self._close(connection, reason)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._pause_accepting(listener, exc)
                return
            task = self._loop.create_task(self._connect(accepted))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(self, accepted)
        except OSError as exc:  # the client has closed it already
            log.debug("connection_not_opened", error=type(exc).__name__)
            accepted.close()

    def _pause_accepting(self, listener: socket.socket, exc: OSError) -> None:
        """Pause accepting; the usual reason is too many open files."""
        ACCEPT_FAILURES.inc()
        self._close_oldest()
        self._log("accept_failed", error=exc.strerror or type(exc).__name__)
        self._loop.remove_reader(listener)
        self._loop.call_later(PAUSE_SECONDS, self._resume_accepting, listener)

    def _resume_accepting(self, listener: socket.socket) -> None:
        if listener.fileno() != -1:  # not closed meanwhile
            self._loop.add_reader(listener, self._accept, listener)

    def _close_oldest(self, except_for: Connection | None = None) -> bool:
        """Close the oldest idle connections: a twentieth of all, because the search visits every one."""
        idle = [one for one in self._open if one.is_idle and one is not except_for]
        oldest = sorted(idle, key=lambda one: one.idle_since)[: max(1, self.most // 20)]
        for connection in oldest:
            self._close(connection, "room_needed")
        return bool(oldest)

    def _close(self, connection: Connection, reason: str) -> None:
        """Close a connection at once, and drop its unsent bytes: the client may never read them."""
        transport = self._open.pop(connection)
        CONNECTIONS.set(len(self._open))
        CONNECTIONS_CLOSED.labels(reason).inc()
        connection.force_close()
        transport.abort()
        self._unlogged += 1
        if reason in {"room_needed", "no_room"}:
            self._log("too_many_connections", reason=reason)

    def _log(self, event: str, **about: str) -> None:
        """Log an event, at most one every LOG_SECONDS: anybody can cause it."""
        now = self._loop.time()
        if now - self._logged_at >= LOG_SECONDS:
            log.warning(event, **about, open=len(self._open), most=self.most, closed=self._unlogged)
            self._logged_at, self._unlogged = now, 0
