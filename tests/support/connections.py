"""Connections to a web process, its health and its metrics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.postgres.engine import pool_of
from tests.conftest import Client, Server
from tests.support.webhooks import NO_HANG


async def metric(client: Server, sample: str) -> float:
    """Return one sample of /metrics by its full name, or 0."""
    async with client.session.get(f"{client.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} ")), 0)


async def raw(client: Client, request: bytes, *, body: bytes = b"") -> bytes:
    """Send bytes unchanged; return the whole response, until the server closes the connection."""
    async with connect(client) as (reader, writer), asyncio.timeout(NO_HANG):
        writer.write(request + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        return await reader.read()


@asynccontextmanager
async def connect(client: Client) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(client.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def is_idle(client: Server) -> bool:
    """Return whether each connection is back in the pool."""
    pool = pool_of(client.res.engine)
    return len(pool._idle) == pool.open


async def is_busy(client: Server) -> bool:
    return not await is_idle(client)


async def is_up(client: Client) -> bool:
    with contextlib.suppress(OSError):
        async with client.session.get(f"{client.url}/healthz") as response:
            return response.status == 200
    return False


async def is_down(client: Client) -> bool:
    """Tell whether new connections are refused, or reset because the socket was closed meanwhile."""
    try:
        async with connect(client):
            return False
    except (ConnectionRefusedError, ConnectionResetError):
        return True


async def listens(port: int) -> None:
    """Wait until a process listens on this port."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return
