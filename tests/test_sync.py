"""The sync: what is finished is in the target, once by effect, whatever the target does meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo import AsyncMongoClient

from service.config.settings import Settings
from service.local.zendesk import Zendesk
from tests.conftest import Client, eventually, serving, working
from tests.targets import SECRET, Receiver, mongodb_url, receiver

PDF = b"%PDF-1.7\n" + bytes(range(256)) * 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mongodb_url(tmp_path_factory.mktemp("mongodb")) as url:
        yield url


@pytest.fixture
async def documents(server: str) -> AsyncIterator[Any]:
    """Open the collection, empty, past the service."""
    client: AsyncMongoClient[dict[str, Any]]
    client = await asyncio.to_thread(lambda: AsyncMongoClient(server, tz_aware=True))
    await client.holdfast.emails.drop()
    yield client.holdfast.emails
    await client.close()


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    async with receiver() as kept:
        yield kept


def syncing(settings: Settings, *urls: str, **more: object) -> Settings:
    """Give settings under which finished e-mails go there, with a short patience."""
    return settings.model_copy(
        update={
            "sync_url": tuple(SecretStr(url) for url in urls),
            "sync_webhook_secret": SecretStr(SECRET),
            "sync_retry_min_seconds": 0.1,
            "sync_retry_max_seconds": 0.3,
            "sync_seconds": 5,
            "public_url": "https://holdfast.acme.example",
            **more,
        }
    )


async def synced(client: Client, email_id: int, *statuses: str) -> dict[str, Any]:
    """Wait until its sync has come to one of these states; return the e-mail."""

    async def reached() -> dict[str, Any] | None:
        email = await client.email(email_id)
        finished = email["processing_status"] in {"completed", "failed"}
        return email if finished and email["sync_status"] in (statuses or ("synced",)) else None

    return await eventually(reached)


async def test_a_finished_email_is_in_the_collection_and_was_posted_signed(
    settings: Settings, zendesk: Zendesk, server: str, documents: Any, endpoint: Receiver
) -> None:
    settings = syncing(settings, f"{server}/holdfast.emails", endpoint.url)
    async with serving(settings, zendesk) as client, working(settings):
        receipt = await client.send(
            zendesk.payload(attachments=[zendesk.add_file("invoice.pdf", PDF)], subject="Grüße")
        )
        email = await synced(client, receipt["email_id"])

    document = await documents.find_one({})
    assert document["_id"] == email["idempotency_key"]
    assert (document["status"], document["version"], document["subject"]) == ("completed", 1, "Grüße")
    (file,) = document["attachments"]
    assert (file["file_name"], file["size"]) == ("invoice.pdf", len(PDF))
    assert file["sha256"] == email["attachments"][0]["sha256"]
    assert file["url"] == f"https://holdfast.acme.example{email['attachments'][0]['href']}"
    ((message_id, body),) = endpoint.messages
    assert message_id == email["idempotency_key"]
    assert body["type"] == "email.completed"
    assert body["data"]["attachments"][0]["sha256"] == file["sha256"]
    assert await documents.count_documents({}) == 1


async def test_without_a_target_there_is_nothing_to_sync(
    client: Client, worker: Any, zendesk: Zendesk
) -> None:
    receipt = await client.send(zendesk.payload())
    email = await client.until(receipt["email_id"], "completed")

    assert email["sync_status"] == "not_applicable"
