"""A target that never responds delays only its own syncs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from tests.conftest import serving, working
from tests.support.files import PDF
from tests.support.targets import syncing

pytestmark = pytest.mark.long

# More than the limit of syncs of one worker.
EMAILS = 40


@asynccontextmanager
async def silence() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Accept connections and never respond; yield the port and an event for the first connection."""
    asked = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(1 << 16):
                asked.set()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], asked


@pytest.mark.parametrize("scheme", ["http://127.0.0.1:{}/sync", "mongodb://127.0.0.1:{}/holdfast.emails"])
async def test_a_silent_target_delays_neither_webhooks_nor_jobs(
    scheme: str, settings: Settings, zendesk: Zendesk
) -> None:
    """If anything waited for the target, this test would time out."""
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
