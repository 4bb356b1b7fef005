"""Hostile connections: idle crowds, slow heads, unread answers; webhooks still get their answers."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import uvloop
from aiohttp import ClientSession, TCPConnector, web

from service.config.limits import file_limit, raise_file_limit
from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources, background
from service.web.server.connections import Connections, most_connections
from service.web.server.sockets import listening
from tests.conftest import ROOT, Client, environment, eventually
from tests.support.connections import is_up

BIG = b"x" * 20_000_000
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@asynccontextmanager
async def bounded(most: int = 50, **deadlines: float) -> AsyncIterator[tuple[Connections, int]]:
    """Serve a small and a big answer with these limits; yield the port."""

    async def small(_: web.Request) -> web.Response:
        return web.Response(text="small")

    async def big(_: web.Request) -> web.Response:
        return web.Response(body=BIG)

    app = web.Application()
    app.add_routes([web.get("/small", small), web.get("/big", big)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    assert runner.server is not None
    server = Connections(runner.server, most, **deadlines)
    with listening("127.0.0.1", 0) as (listener,):
        port = listener.getsockname()[1]
        async with background(server.close_overdue):
            server.listen(listener)
            yield server, port
            await server.stop()
        server.pre_shutdown()
        await server.shutdown(1)
        await runner.cleanup()


def on_loop(name: str, scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await scenario()

    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.run(run())


async def dial(port: int, first: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(first)
    return reader, writer


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return not await asyncio.wait_for(reader.read(1), 0.01)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def answered(port: int) -> bool:
    reader, writer = await dial(port, b"GET /small HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.endswith(b"small")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("sent", [b"", b"GET /small HTTP/1.1\r\n", b"\x16\x03", b"\r\n"])
def test_connection_without_a_complete_head_is_closed(loop: str, sent: bytes) -> None:
    async def scenario() -> None:
        async with bounded(head_seconds=0.5) as (_, port):
            reader, writer = await dial(port, sent)

            await eventually(lambda: is_closed(reader))
            writer.close()

    on_loop(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_slow_head_is_closed_also_after_an_answer(loop: str) -> None:
    async def scenario() -> None:
        async with bounded(head_seconds=0.5) as (_, port):
            reader, writer = await dial(port, b"GET /small HTTP/1.1\r\nHost: here\r\n\r\n")
            assert (await reader.readuntil(b"small")).startswith(b"HTTP/1.1 200")

            writer.write(b"GET /small HTTP/1.1\r\nX: ")

            async def next_byte() -> bool:
                if await is_closed(reader):
                    return True
                writer.write(b"a")
                return False

            await eventually(next_byte)
            writer.close()

    on_loop(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_idle_connection_after_an_answer_stays_open(loop: str) -> None:
    """A router keeps its connections open between requests."""

    async def scenario() -> None:
        async with bounded(head_seconds=0.1) as (_, port):
            reader, writer = await dial(port)
            for _ in range(2):
                writer.write(b"GET /small HTTP/1.1\r\nHost: here\r\n\r\n")
                assert (await reader.readuntil(b"small")).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(1.5)  # the server looks every second
            writer.close()

    on_loop(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("close", ["", "Connection: close\r\n"])
def test_unread_answer_is_dropped(loop: str, close: str) -> None:
    async def scenario() -> None:
        async with bounded(write_seconds=1) as (server, port):
            request = f"GET /big HTTP/1.1\r\nHost: here\r\n{close}\r\n".encode()
            _, writer = await dial(port, request)

            async def is_over() -> bool:
                return not server.connections

            await eventually(is_there(server))
            await eventually(is_over)
            writer.transport.abort()

    on_loop(loop, scenario)


def is_there(server: Connections) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return bool(server.connections)

    return look


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("sent", [b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" * 9 + b"\r\n\r\n"])
def test_invalid_http_gets_400_without_a_version(loop: str, sent: bytes) -> None:
    async def scenario() -> None:
        async with bounded() as (_, port):
            reader, writer = await dial(port, sent)

            answer = await reader.read()
            writer.close()

        assert answer.startswith(b"HTTP/1.0 400 ")
        assert b"\r\nServer: holdfast\r\n" in answer

    on_loop(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_slow_steady_reader_gets_the_whole_answer(loop: str) -> None:
    async def scenario() -> None:
        async with bounded(write_seconds=2) as (_, port):
            reader, writer = await dial(port, b"GET /big HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            received = 0
            while part := await reader.read(400_000):
                received += len(part)
                if received % 2_000_000 < len(part):
                    await asyncio.sleep(0.4)

            assert received > len(BIG)
            writer.close()

    on_loop(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_oldest_idle_connection_is_closed_for_a_new_one(loop: str) -> None:
    async def scenario() -> None:
        async with bounded(most=20, head_seconds=60) as (server, port):
            idle = [await dial(port) for _ in range(20)]

            async def are_there() -> bool:
                return len(server.connections) == 20

            await eventually(are_there)
            for _ in range(5):
                assert await answered(port)

            closed = [await is_closed(reader) for reader, _ in idle]
            assert closed[0]
            assert not closed[-1]
            assert len(server.connections) <= 20
            for _, writer in idle:
                writer.close()

    on_loop(loop, scenario)


# ── the whole process, with a low limit of open files

FEW_FILES = 256


@asynccontextmanager
async def web_with_few_files(
    settings: Settings, *, soft: int, hard: int
) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    with listening("127.0.0.1", 0) as (free,):
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$0" -m service web',
        sys.executable,
        cwd=ROOT,
        env={**environment(settings), "HOST": "127.0.0.1", "PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    try:
        yield port, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("sent", [b"", b"POST /webhooks/zendesk HTTP/1.1\r\n"])
async def test_idle_connections_up_to_the_file_limit_block_no_webhook(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, sent: bytes
) -> None:
    """The closed connections come back again and again; the log and the metrics show it."""
    async with (
        web_with_few_files(settings, soft=FEW_FILES, hard=FEW_FILES) as (port, process),
        ClientSession(connector=TCPConnector(force_close=True)) as session,
        AsyncExitStack() as stack,
    ):
        client = Client(f"http://127.0.0.1:{port}", session, zendesk)
        await eventually(lambda: is_up(client))
        for _ in range(2 * FEW_FILES):
            _, writer = await dial(port, sent)
            stack.callback(writer.close)
        receipts = [await client.send(zendesk.payload()) for _ in range(20)]
        async with session.get(f"{client.url}/metrics") as response:
            metrics = await response.text()
        process.terminate()
        assert process.stdout is not None
        log = await process.stdout.read()

    assert {receipt["status"] for receipt in receipts} == {"accepted"}
    assert b"too_many_connections" in log
    assert 'holdfast_connections_closed_total{reason="room_needed"} 0.0' not in metrics
    assert "holdfast_connections " in metrics


async def test_soft_file_limit_is_raised_to_the_hard_limit(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with (
        web_with_few_files(settings, soft=FEW_FILES, hard=1000) as (port, process),
        ClientSession() as session,
    ):
        await eventually(lambda: is_up(Client(f"http://127.0.0.1:{port}", session, zendesk)))

        limits = await asyncio.to_thread(Path(f"/proc/{process.pid}/limits").read_text)

    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == ["1000", "1000"]


def test_connection_limit_leaves_files_for_the_process(settings: Settings) -> None:
    raise_file_limit()

    most = most_connections(settings)

    assert 0 < most <= file_limit() * 0.9
