"""The ceiling of "Intake": a bare protocol on uvloop that verifies and parses a webhook, with no HTTP server around it.

It trusts the requests of this benchmark, and serves nothing else.
"""

import asyncio
import os
from typing import cast

import uvloop
from multidict import CIMultiDict

from benchmarks.contenders.reading import read

_BODY = b'{"status": "accepted"}'
_ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Receiver(asyncio.Protocol):
    """A connection with one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        request, *lines = head.decode().split("\r\n")
        parted = (line.partition(": ") for line in lines)
        headers = CIMultiDict((name, value) for name, _, value in parted)
        if not request.startswith("POST"):
            self._transport.write(_NOT_FOUND)
            self._transport.close()
        elif len(body) >= int(headers["Content-Length"]):
            self._data = b""
            read(headers, body)
            self._transport.write(_ACCEPTED)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
