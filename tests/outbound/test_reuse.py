"""Connections that are used again: never after a byte that nobody asked for, whatever the server does."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from service.outbound.egress import Egress
from service.outbound.reuse import Answer, ReusingConnector
from service.outbound.transfer import open_session
from tests.support.file_server import fetch, ok

pytestmark = pytest.mark.usefixtures("trusted")

EGRESS = Egress(("127.0.0.1", "*.test"), private_networks=True)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n"
EVIL = ok(b"evil")
# Answers whose end is certain.
EXACT = {
    "with-a-length": ok(b"one"),
    "with-nothing-in-it": ok(b""),
    "without-a-reason": b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\none",
    "with-the-name-in-capitals": b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH:3\r\n\r\none",
    "that-redirects": b"HTTP/1.1 302 Found\r\nLocation: /two\r\nContent-Length: 3\r\n\r\none",
    "with-a-head-in-it": ok(EVIL),
}
# Answers that could end elsewhere, or that are followed by more.
STRANGE = {
    "followed-by-another": ok(b"one") + EVIL,
    "followed-by-a-byte": ok(b"one") + b"\0",
    "followed-by-an-empty-line": ok(b"one") + b"\r\n",
    "that-breaks-off": ok(b"one")[:-1],
    "that-is-a-head-only": ok(b"one")[:-3],
    "in-chunks": CHUNKED + b"\r\n",
    "in-chunks-with-trailers": CHUNKED + b"X-A: b\r\n\r\n",
    "without-a-length": b"HTTP/1.1 200 OK\r\n\r\none",
    "with-two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\none",
    "with-two-different-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 9\r\n\r\none",
    "with-a-length-and-chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: x\r\n\r\none",
    "with-a-sign": b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\none",
    "with-a-folded-line": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 3\r\n\r\none",
    "with-a-space-before-a-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\none",
    "with-half-a-line-end": b"HTTP/1.1 200 OK\r\nContent-Length: 8\n\n\r\n\r\none",
    "with-a-bare-return": b"HTTP/1.1 200 OK\r\nX-A: b\rX: c\r\nContent-Length: 3\r\n\r\none",
    "with-no-content": b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\none",
    "that-is-not-modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\none",
    "that-has-a-forerunner": b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"one"),
    "of-an-old-version": b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\none",
    "after-an-empty-line": b"\r\n" + ok(b"one"),
    "with-an-endless-head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000,
}


def places(sent: bytes) -> range:
    return range(0, len(sent), max(1, len(sent) // 500))


@pytest.mark.parametrize("name", EXACT)
def test_the_end_of_a_plain_answer_is_known_however_it_is_split(name: str) -> None:
    for place in places(EXACT[name]):
        answer = Answer()
        answer.add(EXACT[name][:place])
        assert not answer.is_exact

        answer.add(EXACT[name][place:])
        assert answer.is_exact


@pytest.mark.parametrize("name", STRANGE)
def test_the_end_of_any_other_answer_is_unknown_however_it_is_split(name: str) -> None:
    for place in places(STRANGE[name]):
        answer = Answer()
        answer.add(STRANGE[name][:place])
        answer.add(STRANGE[name][place:])

        assert not answer.is_exact


Then = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FileHost:
    """A TLS server with a file for each path; its first connection does something of its own after the first answer."""

    def __init__(self, first: bytes = ok(b"one"), then: Then | None = None) -> None:
        self.connections = 0
        self.port = 0
        self.done = asyncio.Event()  # the client has closed the first connection
        self._first = first
        self._then = then

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.port}/{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        is_first = self.connections == 1
        with suppress(OSError, asyncio.IncompleteReadError):
            if is_first:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self._first)
                if self._then:
                    await self._then(reader, writer)
            while request := await reader.readuntil(b"\r\n\r\n"):
                writer.write(ok(request.split(b" ")[1].strip(b"/")))
        writer.close()
        if is_first:
            self.done.set()


class Everywhere(AbstractResolver):
    """Resolves each name to loopback."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def listening(host: FileHost, tls: ssl.SSLContext) -> AsyncIterator[FileHost]:
    async with await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=tls) as server:
        host.port = server.sockets[0].getsockname()[1]
        yield host


async def fetched(session: aiohttp.ClientSession, url: str) -> bytes:
    return await fetch(url, session=session, egress=EGRESS)


async def test_downloads_over_tls_share_a_connection(tls: ssl.SSLContext) -> None:
    async with listening(FileHost(), tls) as host, open_session(EGRESS) as session:
        files = [await fetched(session, host.url(name)) for name in ("one", "two", "three")]

    assert (files, host.connections) == ([b"one", b"two", b"three"], 1)


@pytest.mark.parametrize("extra", [EVIL, b"evil", EVIL * 10_000], ids=["an-answer", "bytes", "much"])
async def test_bytes_on_an_idle_connection_end_it(tls: ssl.SSLContext, extra: bytes) -> None:
    asked = asyncio.Event()

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked.wait()
        writer.write(extra)

    # Nothing but these bytes may end it.
    connector = ReusingConnector(Everywhere(), EGRESS.socket_factory, life_seconds=3600)
    async with (
        listening(FileHost(then=send), tls) as host,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        first = await fetched(session, host.url("one"))
        asked.set()
        await host.done.wait()
        second = await fetched(session, host.url("two"))

    assert (first, second, host.connections) == (b"one", b"two", 2)


async def test_an_early_answer_that_nobody_read_yet_is_not_taken_for_the_next_file(
    tls: ssl.SSLContext,
) -> None:
    """The event loop gets no chance to read it between the two requests."""
    asked, sent = threading.Event(), threading.Event()

    def serve() -> None:
        for content, early in ((b"one", EVIL), (b"two", b"")):
            with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
                connection.recv(65536)
                connection.sendall(ok(content))
                asked.wait()
                connection.sendall(early)
                sent.set()
                connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        serving = asyncio.create_task(asyncio.to_thread(serve))
        async with open_session(EGRESS) as session:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
            first = await fetched(session, url)
            asked.set()
            while not sent.is_set():  # without a pause, so that nothing else runs
                pass
            second = await fetched(session, url)
        await serving

    assert (first, second) == (b"one", b"two")


async def test_an_early_answer_is_not_taken_for_the_next_file_wherever_the_bytes_are_split(
    tls: ssl.SSLContext,
) -> None:
    sent = ok(b"one") + EVIL
    for place in (*range(1, len(sent), 7), len(ok(b"one"))):

        async def send(
            _: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes = sent[place:]
        ) -> None:
            await writer.drain()
            writer.write(rest)

        async with listening(FileHost(sent[:place], send), tls) as host, open_session(EGRESS) as session:
            with suppress(Exception):  # a download may also fail of it
                assert await fetched(session, host.url("one")) == b"one"
            await host.done.wait()

            assert await fetched(session, host.url("two")) == b"two"


@pytest.mark.parametrize("name", ["in-chunks", "in-chunks-with-trailers", "of-an-old-version"])
async def test_a_connection_serves_no_second_file_after_an_answer_whose_end_is_unknown(
    tls: ssl.SSLContext, name: str
) -> None:
    async with listening(FileHost(STRANGE[name]), tls) as host, open_session(EGRESS) as session:
        files = [await fetched(session, host.url(name)) for name in ("one", "two", "three")]

    assert (files, host.connections) == ([b"one", b"two", b"three"], 2)


async def test_a_connection_that_ends_with_the_next_request_costs_no_failure(tls: ssl.SSLContext) -> None:
    async def end(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        raise ConnectionError

    async with listening(FileHost(then=end), tls) as host, open_session(EGRESS) as session:
        files = [await fetched(session, host.url(name)) for name in ("one", "two")]

    assert (files, host.connections) == ([b"one", b"two"], 2)


async def test_a_half_closed_connection_is_not_used_again(tls: ssl.SSLContext) -> None:
    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(FileHost(then=close), tls) as host, open_session(EGRESS) as session:
        first = await fetched(session, host.url("one"))
        await host.done.wait()
        second = await fetched(session, host.url("two"))

    assert (first, second, host.connections) == (b"one", b"two", 2)


async def test_a_request_that_changes_something_has_a_connection_of_its_own(tls: ssl.SSLContext) -> None:
    """If it failed on an old connection, nobody would know whether it was done."""
    async with listening(FileHost(), tls) as host, open_session(EGRESS) as session:
        await fetched(session, host.url("one"))
        async with session.post(host.url("two")) as response:
            posted = await response.read()
        await fetched(session, host.url("three"))

    assert (posted, host.connections) == (b"two", 3)


async def test_hosts_at_the_same_address_share_no_connection(tls: ssl.SSLContext) -> None:
    async with listening(FileHost(), tls) as host, open_session(EGRESS, Everywhere()) as session:
        for name in ("a.test", "b.test", "a.test", "b.test"):
            await fetched(session, host.url("one", name))

    assert host.connections == 2


async def test_an_old_connection_is_replaced_so_that_a_host_may_move(tls: ssl.SSLContext) -> None:
    connector = ReusingConnector(Everywhere(), EGRESS.socket_factory, life_seconds=0)
    async with listening(FileHost(), tls) as host, aiohttp.ClientSession(connector=connector) as session:
        for _ in range(3):
            assert await fetched(session, host.url("one")) == b"one"

    assert host.connections == 3
