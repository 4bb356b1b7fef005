"""Webhooks as Zendesk posts them."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.config.settings import Settings
from service.local.zendesk.sender import WebhookResponse, sign_headers
from service.zendesk.signature import SIGNATURE, TIMESTAMP, sign
from tests.conftest import ROOT, Client, Server, eventually

# Seconds after which a request hangs, also on a busy machine.
NO_HANG = 30
SECRET = "stand-in-signing-secret"
TICKET = b'{"ticket_id": 1}'
EVENT: dict[str, Any] = {  # all keys of an event
    "id": "030a3f7a-9bb9-47a4-9a36-6aa8f1d66783",
    "account_id": 22129848,
    "subject": "zen:ticket:19395",
    "time": "2026-04-28T12:00:00Z",
    "zendesk_event_version": "2022-11-06",
    "detail": {"id": "19395"},
    "event": {},
}
MERGED = "zen:event-type:ticket.merged"
IGNORED = json.dumps(EVENT | {"type": MERGED}).encode()


async def post(client: Client, body: bytes | dict[str, Any], **headers: str | None) -> WebhookResponse:
    """Send a new invocation. A header of None is left out; `_` in a name stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with asyncio.timeout(NO_HANG):
        return await client.zendesk.send(client.webhook, body, headers=named)


def signed(body: bytes, *, secret: str = SECRET, timestamp: str | None = None) -> dict[str, str | None]:
    timestamp = timestamp or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {TIMESTAMP: timestamp, SIGNATURE: sign(secret, timestamp, body)}


async def post_again(client: Server, body: bytes | dict[str, Any]) -> WebhookResponse:
    """Send, and repeat after a 503 as Zendesk does, only sooner."""

    async def answered() -> WebhookResponse | None:
        answer = await post(client, body)
        return answer if answer.status != 503 else None

    return await eventually(answered)


def problem(answer: WebhookResponse) -> dict[str, Any]:
    """Check that a response is a problem in JSON, and return it."""
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status
    return body


def head(body: bytes, *more: bytes, announce: int | None = None, **headers: str) -> bytes:
    """Return the head of a signed request that closes its connection."""
    named = {**sign_headers(body, SECRET), "Connection": "close", "Host": "holdfast", **headers}
    if announce is not None:
        named["Content-Length"] = str(announce)
    lines = [f"{name}: {value}".encode() for name, value in named.items()]
    return b"\r\n".join([b"POST /webhooks/zendesk HTTP/1.1", *lines, *more, b"", b""])


class WebProcess(subprocess.Popen[bytes]):
    """`holdfast web` as a Procfile starts it."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        assert settings.database_url
        assert settings.redis_url
        environment = {
            **os.environ,
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "STORAGE_URL": str(settings.storage_url),
            "ZENDESK_WEBHOOK_SECRETS": SECRET,
            "DATABASE_SECONDS": "15",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
        }
        super().__init__([sys.executable, "-m", "service", "web"], cwd=ROOT, env=environment)


@asynccontextmanager
async def web_process(settings: Settings) -> AsyncIterator[WebProcess]:
    process = await asyncio.to_thread(WebProcess, settings)
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that no log line is an error or has a traceback."""
    with capture_logs() as events:
        yield
    assert [event for event in events if event["log_level"] == "error" or event.get("exc_info")] == []
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.exc_info or r.levelno >= logging.ERROR] == []
