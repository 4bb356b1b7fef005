"""Webhooks as Zendesk posts them."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

from service.local.zendesk.sender import Answer
from service.zendesk.signature import SIGNATURE, TIMESTAMP, sign
from tests.conftest import Client

# Tells a hang from an answer, also on a machine that is busy.
NO_HANG = 30
SECRET = "stand-in-signing-secret"
TICKET = b'{"ticket_id": 1}'
EVENT: dict[str, Any] = {  # all that an event has
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


async def post(client: Client, body: bytes | dict[str, Any], **headers: str | None) -> Answer:
    """Send a new invocation; a header of None is left out, and `_` stands for `-` in their names."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with asyncio.timeout(NO_HANG):
        return await client.zendesk.send(client.webhook, body, headers=named)


def signed(body: bytes, *, secret: str = SECRET, timestamp: str | None = None) -> dict[str, str | None]:
    timestamp = timestamp or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {TIMESTAMP: timestamp, SIGNATURE: sign(secret, timestamp, body)}
