"""A target that never answers is in nobody's way but its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from tests.conftest import serving, working
from tests.support.files import PDF
from tests.support.targets import syncing

# More than a worker carries at once.
EMAILS = 40


@asynccontextmanager
async def silence() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Listen, take everything, and say nothing; tell the port, and that somebody waits for an answer."""
    asked = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(1 << 16):
                asked.set()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], asked


@pytest.mark.parametrize("scheme", ["http://127.0.0.1:{}/sync", "mongodb://127.0.0.1:{}/holdfast.emails"])
async def test_webhooks_are_answered_and_emails_completed_as_without_a_target(
    scheme: str, settings: Settings, zendesk: Zendesk
) -> None:
    """Nobody waits for it: then this would take longer than a test may."""
    async with silence() as (port, asked):
        settings = syncing(settings, scheme.format(port), sync_seconds=600)
        async with serving(settings, zendesk) as client, working(settings):
            receipts = [await client.send(zendesk.payload(attachments=[zendesk.add_file("a.pdf", PDF)]))]
            await asked.wait()
            for _ in range(EMAILS - 1):
                payload = zendesk.payload(attachments=[zendesk.add_file("a.pdf", PDF)])
                receipts.append(await client.send(payload))
            emails = [await client.until(receipt["email_id"], "completed") for receipt in receipts]

    assert [receipt["status"] for receipt in receipts] == ["accepted"] * EMAILS
    assert {email["sync_status"] for email in emails} == {"pending"}
