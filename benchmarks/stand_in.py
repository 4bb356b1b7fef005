"""A file server with little overhead: generated files, over persistent connections.

/file/NUMBER/BYTES is a file that begins with its number; /slow/NUMBER/SECONDS sends a byte a second. It speaks
TLS if CERTIFICATE names a file with a certificate and its key.
"""

import asyncio
import os
import random
import ssl
from functools import partial
from typing import cast

import uvloop

HEAD_BYTES = 16
_BLOCK = memoryview(random.Random(0).randbytes(1 << 20))  # noqa: S311 the same in each process


def content(number: int, size: int) -> list[bytes | memoryview]:
    """Return a file's content in pieces: its number, then the same bytes for every file."""
    pieces: list[bytes | memoryview] = [f"{number:0{HEAD_BYTES}}".encode()]
    left = size - HEAD_BYTES
    while left > 0:
        pieces.append(_BLOCK[:left])
        left -= len(pieces[-1])
    return pieces


class _Files(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self) -> None:
        self._request = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._request += data
        if self._request.endswith(b"\r\n\r\n"):
            _, kind, number, more = self._request.partition(b" HTTP/")[0].split(b"/")
            self._request = b""
            if kind == b"file":
                self._write([_head(int(more)), *content(int(number), int(more))])
            else:
                self._write([_head(int(more))])
                for second in range(1, int(more) + 1):
                    asyncio.get_running_loop().call_later(second, partial(self._write, [b"."]))

    def _write(self, pieces: list[bytes | memoryview]) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.writelines(pieces)


def _head(size: int) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


async def _serve(port: int, certificate: str | None) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
    if tls and certificate:
        tls.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Files, "127.0.0.1", port, backlog=512, ssl=tls)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(os.environ["PORT"]), os.environ.get("CERTIFICATE")))
