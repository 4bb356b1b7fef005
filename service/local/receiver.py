"""A receiver of the sync's webhooks, as a separate program: it verifies and writes each message, then answers 200.

    SYNC_WEBHOOK_SECRET=whsec_… python -m service.local.receiver PORT FILE

The file has one line for each accepted message, repetitions included, and for each bad signature. The first message
of each `webhook-id` counts:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

PATH = "/sync"
# The receiver refuses every document with this subject.
UNWANTED = "Not for this receiver"

_MOST_BYTES = 32 * 1024**2
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Message:
    """A message: its `webhook-id`, and its body or the reason why its signature was refused."""

    id: str
    body: Mapping[str, Any] | None
    refused: str | None = None


def read_messages(path: Path) -> Iterator[Message]:
    """Read a receiver's file, oldest message first; none if there is no file."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):  # an incomplete last line was never acknowledged
                yield Message(**json.loads(line))


class _Receiver:
    """Appends messages to its file; after a 200 they survive a kill."""

    def __init__(self, path: Path, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = asyncio.Lock()
        _drop_incomplete_line(path, self._file)

    async def receive(self, request: web.Request) -> web.Response:
        content = await request.read()
        message_id = request.headers.get("webhook-id", "")
        try:
            self._webhook.verify(content, dict(request.headers))
        except WebhookVerificationError as exc:
            await self._append(Message(message_id, None, str(exc)))
            return web.Response(status=401)
        body = json.loads(content)
        if body["data"].get("subject") == UNWANTED:  # a deletion has none
            return web.Response(status=422)
        await self._append(Message(message_id, body))
        return web.Response()

    async def _append(self, message: Message) -> None:
        line = json.dumps({"id": message.id, "body": message.body, "refused": message.refused}).encode()
        async with self._lock:  # lines must not mix
            await asyncio.to_thread(_write, self._file, line + b"\n")


def _write(file: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)


def _drop_incomplete_line(path: Path, file: int) -> None:
    """Remove the line that a killed receiver was writing; it was never acknowledged."""
    content = path.read_bytes()
    os.ftruncate(file, content.rfind(b"\n") + 1)


def main() -> None:
    """Serve until SIGTERM."""
    port, path = sys.argv[1:]
    receiver = _Receiver(Path(path), os.environ["SYNC_WEBHOOK_SECRET"])
    app = web.Application(client_max_size=_MOST_BYTES)
    app.router.add_post(PATH, receiver.receive)
    web.run_app(
        app, host=_LOOPBACK, port=int(port), print=lambda _: None, access_log=None, shutdown_timeout=2
    )


if __name__ == "__main__":
    main()
