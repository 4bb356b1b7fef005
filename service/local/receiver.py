"""A receiver of the sync's webhooks, as a program of its own: it verifies each, and has it on disk before it says 200.

    SYNC_WEBHOOK_SECRET=whsec_… python -m service.local.receiver PORT FILE

The file has a line for each message: what was taken, repetitions too, and why something was not. Who reads it goes by
the first of each `webhook-id`, as the specification wants it.
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
# Who writes this as the subject has a document that is not taken, whatever is done.
UNWANTED = "Not for this receiver"

_MOST_BYTES = 32 * 1024**2
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Message:
    """What came: its `webhook-id` and its body, or why it was refused for its signature."""

    id: str
    body: Mapping[str, Any] | None
    refused: str | None = None


def read_messages(path: Path) -> Iterator[Message]:
    """Read what a receiver has on disk, oldest first; nothing where it never got anything."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):  # or it fell while it wrote this, and promised nothing
                yield Message(**json.loads(line))


class _Receiver:
    """Appends to its file; what is answered with 200 outlives a kill."""

    def __init__(self, path: Path, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._turn = asyncio.Lock()
        _drop_half_a_line(path, self._file)

    async def take(self, request: web.Request) -> web.Response:
        content = await request.read()
        message_id = request.headers.get("webhook-id", "")
        try:
            self._webhook.verify(content, dict(request.headers))
        except WebhookVerificationError as exc:
            await self._keep(Message(message_id, None, str(exc)))
            return web.Response(status=401)
        body = json.loads(content)
        if body["data"]["subject"] == UNWANTED:
            return web.Response(status=422)
        await self._keep(Message(message_id, body))
        return web.Response()

    async def _keep(self, message: Message) -> None:
        line = json.dumps({"id": message.id, "body": message.body, "refused": message.refused}).encode()
        async with self._turn:  # so that no line is within another
            await asyncio.to_thread(_append, self._file, line + b"\n")


def _append(file: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)


def _drop_half_a_line(path: Path, file: int) -> None:
    """Forget what a killed receiver was writing: nobody was told that it is there."""
    content = path.read_bytes()
    os.ftruncate(file, content.rfind(b"\n") + 1)


def main() -> None:
    """Serve until told to end."""
    port, path = sys.argv[1:]
    receiver = _Receiver(Path(path), os.environ["SYNC_WEBHOOK_SECRET"])
    app = web.Application(client_max_size=_MOST_BYTES)
    app.router.add_post(PATH, receiver.take)
    web.run_app(
        app, host=_LOOPBACK, port=int(port), print=lambda _: None, access_log=None, shutdown_timeout=2
    )


if __name__ == "__main__":
    main()
