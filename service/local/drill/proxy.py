"""A TCP proxy before a server, which can cut, freeze, delay or strand connections on command."""

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

Connect = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]


@dataclass(eq=False)
class _ProxiedConnection:
    """A client's connection, and ours to the server."""

    client: tuple[StreamReader, StreamWriter]
    server: tuple[StreamReader, StreamWriter]
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    server_spoke: asyncio.Event = field(default_factory=asyncio.Event)
    is_cut: bool = False
    is_stranded: bool = False

    def cut(self) -> None:
        self.is_cut = True
        for _, writer in (self.client, self.server):
            writer.transport.abort()


@dataclass
class _Trap:
    needle: bytes
    arrives: bool
    cuts: bool
    skip: int


class Proxy:
    """Listens on 127.0.0.1 and forwards everything, until a method says otherwise."""

    def __init__(self, connect: Connect) -> None:
        self.delay = 0.0  # seconds before each chunk is forwarded
        self.connections = 0  # accepted so far
        self.sprung = asyncio.Event()  # set when the trap of `trip` cut a connection
        self._connect = connect
        self._open: set[_ProxiedConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trap: _Trap | None = None
        self._frozen = False
        self._listener: asyncio.Server | None = None
        # Reserves the port without listening: while the proxy is cut, connections are refused, and no one else binds it.
        self._reserve = socket.socket()
        self._reserve.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserve.bind(("127.0.0.1", 0))
        self.port: int = self._reserve.getsockname()[1]

    async def __aenter__(self) -> Self:
        await self.resume()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._reserve.close()
        tasks = self._tasks.copy()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the loop closes sockets of aborted transports in its next iteration

    async def resume(self) -> None:
        """Forward everything, frozen data included, and listen again."""
        self._frozen, self.delay = False, 0.0
        for connection in self._open:
            connection.flows.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port, reuse_port=True, backlog=512
            )

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.drop()

    def drop(self) -> None:
        """Close all connections, as a restart does; accept new ones."""
        for connection in self._open:
            connection.cut()

    def freeze(self) -> None:
        """Accept connections and data, but forward nothing."""
        self._frozen = True
        for connection in self._open:
            connection.flows.clear()

    def strand(self) -> None:
        """Freeze all open connections for good, as a failover does; new ones work."""
        for connection in self._open:
            connection.flows.clear()
            connection.is_stranded = True
            connection.server[1].transport.abort()
        self._open.clear()

    def trip(self, needle: bytes, *, arrives: bool, cuts: bool, skip: int = 0) -> None:
        """Set a trap: cut the connection on which the client sends `needle`, so that its outcome stays unknown.

        `arrives`: the server receives the needle and answers before the cut. `cuts`: the whole proxy is cut
        as well. `skip`: this many chunks with the needle pass first.
        """
        self._trap = _Trap(needle, arrives, cuts, skip)
        self.sprung.clear()

    def disarm(self) -> None:
        """Remove the trap of `trip`."""
        self._trap = None

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101 a handler runs in one
        self._tasks.add(task)
        try:
            with suppress(OSError):  # the server is away, so close the connection
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        connection = _ProxiedConnection((reader, writer), await self._connect())
        if self._listener is None:  # it was cut meanwhile
            connection.cut()
            return
        self._open.add(connection)
        if not self._frozen:
            connection.flows.set()
        pumps = {
            asyncio.create_task(self._upstream(connection)),
            asyncio.create_task(self._downstream(connection)),
        }
        self._tasks |= pumps
        try:
            # When one direction ends, the other ends, too.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if connection.is_stranded:
                await asyncio.wait(pumps)
        finally:
            connection.cut()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._tasks -= pumps
            self._open.discard(connection)

    async def _upstream(self, connection: _ProxiedConnection) -> None:
        async for chunk in self._chunks(connection, connection.client[0]):
            trap = self._trap
            if trap is not None and trap.needle in chunk:
                trap.skip -= 1
                if trap.skip < 0:
                    self._trap = None
                    await self._spring(trap, connection, chunk)
                    return
            await _write(connection.server[1], chunk)

    async def _downstream(self, connection: _ProxiedConnection) -> None:
        async for chunk in self._chunks(connection, connection.server[0]):
            connection.server_spoke.set()
            if connection.is_cut:
                return
            await _write(connection.client[1], chunk)

    async def _chunks(self, connection: _ProxiedConnection, reader: StreamReader) -> AsyncIterator[bytes]:
        with suppress(OSError):
            while chunk := await reader.read(1 << 16):
                await connection.flows.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                yield chunk

    async def _spring(self, trap: _Trap, connection: _ProxiedConnection, chunk: bytes) -> None:
        if trap.arrives:
            connection.is_cut = True  # the client must not see the answer
            connection.server_spoke.clear()
            await _write(connection.server[1], chunk)
            await connection.server_spoke.wait()
        if trap.cuts:
            self.cut()
        connection.cut()
        self.sprung.set()


async def _write(writer: StreamWriter, chunk: bytes) -> None:
    with suppress(OSError):
        writer.write(chunk)
        await writer.drain()
