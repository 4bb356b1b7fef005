"""From the webhook to the stored bytes, over the real servers."""

import asyncio

import asyncpg
from arq.worker import Worker

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from tests.conftest import Client
from tests.support.files import PDF, stored_files


async def test_an_email_with_attachments_ends_as_the_same_bytes_in_storage(
    client: Client, worker: Worker, zendesk: Zendesk, settings: Settings
) -> None:
    files = {"invoice.pdf": PDF, "list.csv": b"a,b\n1,2\n"}
    urls = [zendesk.add_file(name, content) for name, content in files.items()]
    receipt = await client.send(zendesk.payload(ticket_id=77, attachments=urls))

    email = await client.until(receipt["email_id"], "completed", "failed")

    assert email["processing_status"] == "completed", email
    assert email["zendesk_ticket_id"] == "77"
    assert email["received_at"] <= email["started_at"] <= email["completed_at"]
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["completed"]
    assert [a["status"] for a in email["attachments"]] == ["stored", "stored"]
    for attachment, content in zip(email["attachments"], files.values(), strict=True):
        async with client.session.get(
            client.url + attachment["href"], headers={"Authorization": "Bearer api-token-of-the-tests"}
        ) as response:
            assert await response.read() == content
    assert len(await stored_files(settings)) == 2


async def test_an_email_without_attachments_is_completed_at_once(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    receipt = await client.send(zendesk.payload())

    email = await client.until(receipt["email_id"], "completed", "failed")

    assert email["processing_status"] == "completed"
    assert email["attachments"] == []


async def test_the_same_webhook_200_times_at_once_is_one_email_one_job_and_one_object(
    client: Client, worker: Worker, zendesk: Zendesk, settings: Settings, database: asyncpg.Connection
) -> None:
    payload = zendesk.payload(attachments=[zendesk.add_file("same.pdf", PDF)])

    receipts = await asyncio.gather(*(client.send(payload) for _ in range(200)))
    email = await client.until(receipts[0]["email_id"], "completed", "failed")

    assert {receipt["email_id"] for receipt in receipts} == {email["id"]}
    assert sorted(r["status"] for r in receipts) == ["accepted"] + ["duplicate"] * 199
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 1
    assert await database.fetchval("SELECT count(*) FROM attempts") == 1
    assert len(await stored_files(settings)) == 1
