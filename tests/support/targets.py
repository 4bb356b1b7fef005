"""Targets on loopback: settings for them, and a receiver that verifies signatures."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiohttp import web
from pydantic import SecretStr
from standardwebhooks import Webhook

from service.config.settings import Settings
from service.postgres.engine import run
from service.resources import Resources
from service.targets.document import make_document, read_records
from tests.conftest import Client, eventually
from tests.support.files import PDF
from tests.support.rows import add_many_finished

SECRET = "whsec_aG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3Q="


def syncing(settings: Settings, *urls: str, **more: object) -> Settings:
    """Return settings that sync finished e-mails to these targets, with short pauses between attempts."""
    return settings.model_copy(
        update={
            "sync_url": tuple(SecretStr(url) for url in urls),
            "sync_webhook_secret": (SecretStr(SECRET),),
            "sync_retry_min_seconds": 0.1,
            "sync_retry_max_seconds": 0.3,
            "sync_seconds": 5,
            "public_url": "https://holdfast.acme.example",
            **more,
        }
    )


async def synced(client: Client, email_id: int, *statuses: str) -> dict[str, Any]:
    """Wait until the e-mail is finished and its sync is in one of these states; return the e-mail."""

    async def reached() -> dict[str, Any] | None:
        email = await client.email(email_id)
        finished = email["processing_status"] in {"completed", "failed"}
        return email if finished and email["sync_status"] in (statuses or ("synced",)) else None

    return await eventually(reached)


@dataclass
class Receiver:
    """Keep the posted messages with valid signatures; answer with `statuses` first, then with 200."""

    url: str = ""
    secret: str = SECRET
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # webhook-id and body
    refused: int = 0

    @property
    def newest(self) -> dict[str, dict[str, Any]]:
        """Return the latest version of each e-mail's document."""
        found: dict[str, dict[str, Any]] = {}
        for _, body in self.messages:
            data = body["data"]
            if data["id"] not in found or found[data["id"]]["version"] <= data["version"]:
                found[data["id"]] = data
        return found

    async def take(self, request: web.Request) -> web.Response:
        content = await request.read()
        await asyncio.sleep(self.delay)
        Webhook(self.secret).verify(content, dict(request.headers))
        if self.statuses:
            self.refused += 1
            return web.Response(status=self.statuses.pop(0), headers=self.headers)
        self.messages.append((request.headers["webhook-id"], json.loads(content)))
        return web.Response()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Run a receiver."""
    kept = Receiver()
    app = web.Application(client_max_size=64 * 1024**2)
    app.router.add_post("/sync", kept.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kept.url = f"http://127.0.0.1:{runner.addresses[0][1]}/sync"
    try:
        yield kept
    finally:
        await runner.cleanup()


def synced_to(settings: Settings) -> Settings:
    """Return settings with a target that is never called."""
    return settings.model_copy(update={"sync_url": (SecretStr("mongodb://mongodb.example/archive.emails"),)})


async def write_documents(res: Resources, ids: list[int]) -> None:
    """Write the documents of these e-mails to the target."""
    records = await run(res.engine, 30, lambda conn: read_records(conn, ids))
    for each in records.values():
        await res.targets[0].write(make_document(each, {}))


async def add_synced(res: Resources, database: asyncpg.Connection, count: int) -> list[int]:
    ids = await add_many_finished(database, count)
    await write_documents(res, ids)
    return ids


async def send_file(client: Client, *, file: bool = True, **more: Any) -> int:
    zendesk = client.zendesk
    urls = [zendesk.add_file("invoice.pdf", PDF)] if file else []
    email_id: int = (await client.send(zendesk.payload(attachments=urls, **more)))["email_id"]
    return email_id


async def until_synced(client: Client, email_id: int, *statuses: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        email = await client.email(email_id)
        return email if email["sync_status"] in (statuses or ("synced",)) else None

    return await eventually(reached)
