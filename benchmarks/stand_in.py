"""A file server that costs next to nothing: answers of its own for each address, over connections that stay.

/file/NUMBER/BYTES is a file whose first bytes are its number; /slow/NUMBER/SECONDS is one of a byte a second.
"""

import asyncio
import os
import random
from functools import partial
from typing import cast

import uvloop

HEAD_BYTES = 16
_BLOCK = memoryview(random.Random(0).randbytes(1 << 20))  # noqa: S311 the same in each process


def content(number: int, size: int) -> list[bytes | memoryview]:
    """Return a file's content in pieces: its number, then bytes that are the same in every file."""
    pieces: list[bytes | memoryview] = [f"{number:0{HEAD_BYTES}}".encode()]
    left = size - HEAD_BYTES
    while left > 0:
        pieces.append(_BLOCK[:left])
        left -= len(pieces[-1])
    return pieces


class _Files(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self) -> None:
        self._asked = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self._asked += data
        if self._asked.endswith(b"\r\n\r\n"):
            _, kind, number, more = self._asked.partition(b" HTTP/")[0].split(b"/")
            self._asked = b""
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


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Files, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(os.environ["PORT"])))
