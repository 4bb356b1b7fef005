"""A way to a server on which a test can lay its hands: it passes, cuts, freezes, delays or trips over the traffic."""

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
class _Line:
    """One connection of a client, and ours to the server."""

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
    """Listens on 127.0.0.1 and passes everything on, until it is told otherwise."""

    def __init__(self, connect: Connect) -> None:
        self.delay = 0.0  # seconds that each chunk waits
        self.connections = 0  # how many were ever accepted
        self.sprung = asyncio.Event()  # the trap of `trip` has worked
        self._connect = connect
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trap: _Trap | None = None
        self._frozen = False
        self._listener: asyncio.Server | None = None
        # Holds the port and never listens: while the proxy is cut, nobody else gets it, and dialling it is refused.
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
        await asyncio.sleep(0)  # an aborted transport closes its socket in the loop's next turn

    async def resume(self) -> None:
        """Pass everything, also what was held back."""
        self._frozen, self.delay = False, 0.0
        for line in self._lines:
            line.flows.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port, reuse_port=True, backlog=512
            )

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.drop()

    def drop(self) -> None:
        """Close all connections, as a restart does; new ones are welcome."""
        for line in self._lines:
            line.cut()

    def freeze(self) -> None:
        """Accept everything, forward nothing."""
        self._frozen = True
        for line in self._lines:
            line.flows.clear()

    def strand(self) -> None:
        """Freeze the connections there are, for good; new ones pass: what a failover leaves behind."""
        for line in self._lines:
            line.flows.clear()
            line.is_stranded = True
            line.server[1].transport.abort()
        self._lines.clear()

    def trip(self, needle: bytes, *, arrives: bool, cuts: bool, skip: int = 0) -> None:
        """Cut the connection on which the client sends `needle`, so that it never learns what came of it.

        `arrives`: the server gets it, and has dealt with it before anybody is cut. `cuts`: from then on
        the proxy is cut altogether. `skip`: so many chunks with the needle pass.
        """
        self._trap = _Trap(needle, arrives, cuts, skip)
        self.sprung.clear()

    def disarm(self) -> None:
        """Take the trap of `trip` away."""
        self._trap = None

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101 a handler runs in one
        self._tasks.add(task)
        try:
            with suppress(OSError):  # the server is away: so are we
                await self._serve(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        line = _Line((reader, writer), await self._connect())
        self._lines.add(line)
        if not self._frozen:
            line.flows.set()
        pumps = {asyncio.create_task(self._upstream(line)), asyncio.create_task(self._downstream(line))}
        self._tasks |= pumps
        try:
            # The first that ends, ends the other.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if line.is_stranded:
                await asyncio.wait(pumps)
        finally:
            line.cut()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._tasks -= pumps
            self._lines.discard(line)

    async def _upstream(self, line: _Line) -> None:
        async for chunk in self._chunks(line, line.client[0]):
            trap = self._trap
            if trap is not None and trap.needle in chunk:
                trap.skip -= 1
                if trap.skip < 0:
                    self._trap = None
                    await self._spring(trap, line, chunk)
                    return
            await _write(line.server[1], chunk)

    async def _downstream(self, line: _Line) -> None:
        async for chunk in self._chunks(line, line.server[0]):
            line.server_spoke.set()
            if line.is_cut:
                return
            await _write(line.client[1], chunk)

    async def _chunks(self, line: _Line, reader: StreamReader) -> AsyncIterator[bytes]:
        with suppress(OSError):
            while chunk := await reader.read(1 << 16):
                await line.flows.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                yield chunk

    async def _spring(self, trap: _Trap, line: _Line, chunk: bytes) -> None:
        if trap.arrives:
            line.is_cut = True  # its answer is for nobody
            line.server_spoke.clear()
            await _write(line.server[1], chunk)
            await line.server_spoke.wait()
        if trap.cuts:
            self.cut()
        line.cut()
        self.sprung.set()


async def _write(writer: StreamWriter, chunk: bytes) -> None:
    with suppress(OSError):
        writer.write(chunk)
        await writer.drain()
