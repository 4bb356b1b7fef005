"""The receiver of a drill writes a message to disk before it answers 200, and accepts only signed messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.errors import Permanent, Transient
from service.local.receiver import UNWANTED, read_messages
from service.local.servers import free_port
from service.targets.document import Document
from service.targets.webhook import Endpoint
from tests.conftest import program
from tests.support.connections import listens
from tests.support.forked import Program
from tests.support.targets import SECRET

OTHER = "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI="


def document(key: str, subject: str = "Grüße", version: int = 1) -> Document:
    content = {
        "status": "completed",
        "completed_at": datetime.now(UTC),
        "subject": subject,
        "version": version,
    }
    return Document(key, version, is_first=version == 1, content=content)


@asynccontextmanager
async def receiving(settings: Settings, path: Path) -> AsyncIterator[tuple[Program, str]]:
    port = free_port()
    command = ("service.local.receiver", str(port), str(path))
    async with program(*command, settings=settings, SYNC_WEBHOOK_SECRET=SECRET) as process:
        await listens(port)
        yield process, f"http://127.0.0.1:{port}/sync"


@asynccontextmanager
async def posting(url: str, secret: str = SECRET) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(url, [secret], 30)
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def read(path: Path) -> list[tuple[str, str | None]]:
    """Return each message's id and subject; the subject is None if the message was refused."""
    messages = await asyncio.to_thread(lambda: list(read_messages(path)))
    return [(message.id, message.body["data"]["subject"] if message.body else None) for message in messages]


async def test_acknowledged_messages_survive_a_kill(settings: Settings, tmp_path: Path) -> None:
    """An incomplete last line is ignored and then removed."""
    path = tmp_path / "messages"
    async with receiving(settings, path) as (process, url), posting(url) as endpoint:
        await asyncio.gather(*(endpoint.write(document(f"key-{n}")) for n in range(20)))
        process.kill()
        await process.wait()
    with await asyncio.to_thread(path.open, "ab") as file:
        await asyncio.to_thread(file.write, b'{"id": "key-20", "bo')
    before = await read(path)
    async with receiving(settings, path) as (_, url), posting(url) as endpoint:
        await endpoint.write(document("key-0", version=2))

    assert sorted(before) == sorted((f"key-{n}", "Grüße") for n in range(20))
    assert await read(path) == [*before, ("key-0:2", "Grüße")]


async def test_only_signed_and_wanted_messages_are_accepted(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "messages"
    async with receiving(settings, path) as (_, url), posting(url) as good, posting(url, OTHER) as bad:
        with pytest.raises(Permanent, match="422") as unwanted:
            await good.write(document("unwanted", UNWANTED))
        with pytest.raises(Transient, match="401"):
            await bad.write(document("forged"))
        await good.write(document("good"))

    assert unwanted.value.code == "document_refused"
    assert await read(path) == [("forged", None), ("good", "Grüße")]


async def test_without_a_file_there_are_no_messages(tmp_path: Path) -> None:
    assert await read(tmp_path / "messages") == []
