"""Files of e-mails and their objects in storage."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg

from service.config.settings import Settings
from service.resources import Resources
from service.storage import objects
from tests.support.api import EMAILS
from tests.support.rows import add

PDF = b"%PDF-1.7\n" + bytes(range(256)) * 400


async def add_file(
    database: asyncpg.Connection, res: Resources, content: bytes, name: str | None = "file.bin"
) -> str:
    """Store a file for a new e-mail; return the API path of its content."""

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    stored = await objects.put(res.storage, chunks(), name)
    email_id = await add(database, processing_status="completed")
    await add(
        database,
        "attachments",
        email_id=email_id,
        position=0,
        source_url="https://acme.zendesk.com/attachments/token/x/",
        file_name=name,
        status="stored",
        sha256=stored.sha256,
        size=stored.size,
        detected_type=stored.detected_type,
        object_key=stored.key,
    )
    return f"{EMAILS}/{email_id}/attachments/0/content"


async def stored_files(settings: Settings) -> list[Path]:
    """List all objects in storage; no heads of the evidence log, and none that are still being written."""
    return await asyncio.to_thread(_stored_files, settings)


def _stored_files(settings: Settings) -> list[Path]:
    root = Path(str(settings.storage_url).removeprefix("file://"))
    apart = {".spool", "heads"}
    return [path for path in root.rglob("*") if path.is_file() and apart.isdisjoint(path.parts)]


async def object_path(database: asyncpg.Connection, settings: Settings) -> Path:
    key: str = await database.fetchval("SELECT object_key FROM attachments")
    return Path(str(settings.storage_url).removeprefix("file://")) / key
