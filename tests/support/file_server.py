"""A raw HTTP server of files on loopback with scripted responses, and downloads from it."""

import asyncio
import gzip
import socket
import ssl
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import brotli
import pytest
from yarl import URL

from service.errors import HoldfastError
from service.outbound.egress import Egress
from service.outbound.responses import Expected, Limits
from service.outbound.transfer import Access, download, open_session
from service.zendesk.access import FileAccess
from service.zendesk.account import Account
from service.zendesk.login import FixedLogin

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EGRESS = Egress(("127.0.0.1", "localhost", "*.invalid"), private_networks=True)
LIMITS = Limits(max_bytes=1_000_000, seconds=20, stall_seconds=20)
SECRET = "Basic c2VjcmV0"
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title>"
# An address with a token that any re-quoting would change.
SIGNED = "/f%69le/a%2Fb/c+d?token=%7eA%2Fb%2bc+d==&X=%3d~(')&name=r%C3%A9sum%C3%A9"
Then = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NOTHING = Expected()
NOBODY = FileAccess(Account(), None)


@dataclass
class Server:
    """Answer each request with the bytes that `answers` has for its path; record the requests."""

    scheme: str = "http"
    port: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    then: Then | None = None

    def url(self, path: str = "/file", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                self.requests.append(request)
                path = request.split(" ")[1]
                writer.write(self.answers.get(path, self.answers.get("*", b"")))
                await writer.drain()
                if self.then:
                    await self.then(reader, writer)
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed.set()
        finally:
            writer.close()


def packed(content: bytes, coding: str) -> bytes:
    compress: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "x-gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": lambda data: bytes(brotli.compress(data, quality=1)),
        "zstd": zstd.compress,
        "identity": lambda data: data,
    }
    for each in coding.lower().split(", "):
        content = compress[each](content)
    return content


@asynccontextmanager
async def listen(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def open_transfer(
    url: str,
    expected: Expected = NOTHING,
    limits: Limits = LIMITS,
    access: Access = NOBODY,
    session: aiohttp.ClientSession | None = None,
    egress: Egress = EGRESS,
) -> AsyncIterator[AsyncIterator[bytes]]:
    async with AsyncExitStack() as stack:
        if session is None:
            session = await stack.enter_async_context(open_session(egress))
        file = await stack.enter_async_context(
            download(session, egress, url, expected=expected, limits=limits, access=access)
        )
        yield file.chunks


async def fetch(
    url: str,
    expected: Expected = NOTHING,
    limits: Limits = LIMITS,
    access: Access = NOBODY,
    session: aiohttp.ClientSession | None = None,
    egress: Egress = EGRESS,
) -> bytes:
    async with open_transfer(url, expected, limits, access, session, egress) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def fetch_error(
    url: str,
    expected: Expected = NOTHING,
    limits: Limits = LIMITS,
    session: aiohttp.ClientSession | None = None,
    egress: Egress = EGRESS,
) -> HoldfastError:
    with pytest.raises(HoldfastError) as failed:
        await fetch(url, expected, limits, session=session, egress=egress)
    return failed.value


def access_of(server: Server) -> FileAccess:
    return FileAccess(Account(URL(server.url())), FixedLogin(SECRET))


def ok(content: bytes, *headers: str) -> bytes:
    return (
        "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(content)}", *headers, "\r\n"]).encode()
        + content
    )


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n".encode()


async def close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.05)  # so that what was sent is not discarded with the connection
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def wait_for_ever(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()
    raise ConnectionError


def send_for_ever(data: bytes, pause: float = 0) -> Then:
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(pause)

    return send


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
