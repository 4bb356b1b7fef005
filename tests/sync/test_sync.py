"""The sync: each finished e-mail is in the target, effectively once, whatever the target does."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientSession
from arq.worker import Worker
from pydantic import SecretStr
from yarl import URL

from service.config.settings import Settings
from service.errors import Rejected, SettingsError
from service.local.zendesk.stand_in import Fault, Zendesk
from service.operate.retry import retry
from service.resources import Resources, check_usable, open_resources
from service.sync.attempt import sync
from service.targets.document import Document, digest, make_document, read_records
from service.telemetry import logs
from tests.conftest import Client, eventually, serving, working
from tests.support.files import PDF
from tests.support.proxy import before_mongodb
from tests.support.s3 import Bucket
from tests.support.targets import Receiver, send_file, synced, syncing


async def test_a_finished_email_is_written_to_the_collection_and_posted_with_a_signature(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, endpoint: Receiver
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails", endpoint.url)
    async with serving(settings, zendesk) as client, working(settings):
        email = await synced(client, await send_file(client, subject="Grüße"))

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
    assert body["data"]["attachments"] == document["attachments"]
    assert await documents.count_documents({}) == 1


async def test_a_failed_email_is_synced_with_its_reason(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, endpoint: Receiver
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails", endpoint.url)
    url = zendesk.add_file("gone.pdf", PDF, faults=[Fault(status=410)])
    async with serving(settings, zendesk) as client, working(settings):
        receipt = await client.send(zendesk.payload(attachments=[url]))
        await synced(client, receipt["email_id"])

    document = await documents.find_one({})
    assert (document["status"], document["error_code"]) == ("failed", "attachment_gone")
    assert [(file["status"], file["url"]) for file in document["attachments"]] == [("failed", None)]
    assert endpoint.messages[0][1]["type"] == "email.failed"


async def test_a_later_version_replaces_the_earlier_one_and_has_another_message_id(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, endpoint: Receiver
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails", endpoint.url)
    url = zendesk.add_file("late.pdf", PDF, faults=[Fault(status=410)])
    async with serving(settings, zendesk) as client, working(settings):
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
        await synced(client, email_id)
        await client.post(f"/api/v1/emails/{email_id}/retry")
        await client.until(email_id, "completed")
        email = await synced(client, email_id)

    (document,) = await documents.find({}).to_list()
    key = email["idempotency_key"]
    assert (document["status"], document["version"]) == ("completed", 2)
    assert [message_id for message_id, _ in endpoint.messages] == [key, f"{key}:2"]
    assert endpoint.newest[key]["status"] == "completed"


async def test_an_earlier_version_that_arrives_late_changes_nothing(
    settings: Settings, database: asyncpg.Connection, mongodb_server: str, documents: Any
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails")
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, idempotency_key, processing_status, attempt_number)"
        " VALUES ('1', 'key', 'failed', 1)"
    )
    async with open_resources(settings) as res:
        (target,) = res.targets
        async with res.engine.connect() as conn:
            early = make_document((await read_records(conn, [1]))[1], {})
            await database.execute(
                "UPDATE incoming_emails SET processing_status = 'completed', attempt_number = 2"
            )
            late = make_document((await read_records(conn, [1]))[1], {})

        # All concurrently, and each of them several times.
        await asyncio.gather(*(target.write(late) for _ in range(5)))
        refused = await asyncio.gather(*(target.write(early) for _ in range(5)), return_exceptions=True)
        await target.write(late)

    assert [getattr(error, "code", error) for error in refused] == ["receiver_ahead"] * 5
    (document,) = await documents.find({}).to_list()
    assert document.pop("_id") == "key"
    assert digest(document) == digest(late.content)


async def test_concurrent_writes_of_one_document_are_one(
    settings: Settings, database: asyncpg.Connection, mongodb_server: str, documents: Any
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails")
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, idempotency_key, processing_status, attempt_number)"
        " VALUES ('1', 'key', 'completed', 1)"
    )
    async with open_resources(settings) as res:
        (target,) = res.targets
        async with res.engine.connect() as conn:
            document = make_document((await read_records(conn, [1]))[1], {})

        await asyncio.gather(*(target.write(document) for _ in range(30)))

    assert await documents.count_documents({}) == 1


async def test_without_a_target_there_is_nothing_to_sync(
    client: Client, worker: Worker, zendesk: Zendesk, res: Resources
) -> None:
    receipt = await client.send(zendesk.payload())
    email = await client.until(receipt["email_id"], "completed")

    assert email["sync_status"] == "not_applicable"
    with pytest.raises(Rejected) as refused:
        await retry(res, receipt["email_id"], "tests", "sync")
    assert (refused.value.status, refused.value.code) == (409, "sync_off")


async def test_a_worker_without_a_target_settles_no_sync(
    res: Resources, database: asyncpg.Connection
) -> None:
    """While SYNC_URL is set worker by worker, those without it get messages for the others, too."""
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, attempt_number, sync_status)"
        " VALUES ('1', 'completed', 1, 'pending')"
    )

    await sync(res, 1)

    row = await database.fetchrow("SELECT sync_status, sync_attempt_number, synced_at FROM incoming_emails")
    assert tuple(row or ()) == ("pending", 0, None)


async def test_a_slow_target_takes_no_slot_of_a_job(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver
) -> None:
    """The limit of syncs may be higher than that of jobs."""
    endpoint.delay = 30
    settings = syncing(
        settings, endpoint.url, jobs_per_process=2, sync_seconds=20, sweep_seconds=20, lease_seconds=30
    )
    async with serving(settings, zendesk) as client, working(settings) as worker:
        for _ in range(3):  # the last one finds no free slot, if syncs use those of jobs
            await client.until(await send_file(client, file=False), "completed")
            await asyncio.sleep(0.3)
        syncs = [job for job in worker.tasks if job.startswith("sync:")]

    assert len(syncs) > 2


async def test_an_outage_of_the_target_delays_nothing_else_and_loses_or_doubles_nothing(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any
) -> None:
    async with before_mongodb(mongodb_server) as (proxy, url):
        settings = syncing(settings, url, sync_seconds=1)
        async with serving(settings, zendesk) as client, working(settings):
            proxy.cut()
            email_ids = [await send_file(client) for _ in range(20)]
            completed = [await client.until(email_id, "completed") for email_id in email_ids]

            async def is_tried() -> bool:
                emails = [await client.email(email_id) for email_id in email_ids]
                return any(email["sync_error"] for email in emails)

            await eventually(is_tried)
            waiting = [await client.email(email_id) for email_id in email_ids]
            await proxy.resume()
            for email_id in email_ids:
                await synced(client, email_id)

    assert all(email["sync_status"] == "pending" for email in [*completed, *waiting])
    tried = [email for email in waiting if email["sync_error"]]
    assert {email["sync_error_code"] for email in tried} <= {"receiver_away", "receiver_slow"}
    assert len(tried) < len(waiting), "the circuit breaker lets one e-mail probe, and all others wait"
    assert await documents.count_documents({}) == len(email_ids)


async def test_a_write_with_an_unknown_outcome_is_repeated_and_stays_one_document(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any
) -> None:
    async with before_mongodb(mongodb_server) as (proxy, url):
        settings = syncing(settings, url, sync_seconds=2)
        async with serving(settings, zendesk) as client, working(settings):
            await synced(client, await send_file(client))
            # The write arrives, but its response does not, nor that of the driver's own repetition.
            proxy.trip(b"unknown outcome", arrives=True, cuts=False)
            email = await synced(client, await send_file(client, subject="unknown outcome"))
            await asyncio.wait_for(proxy.sprung.wait(), 10)

    assert email["sync_status"] == "synced"
    assert await documents.count_documents({"subject": "unknown outcome"}) == 1


async def test_a_write_that_times_out_is_retried(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver
) -> None:
    settings = syncing(settings, endpoint.url, sync_seconds=0.5)
    endpoint.delay = 1.0
    async with serving(settings, zendesk) as client, working(settings):
        email_id = await send_file(client)

        async def gave_up() -> dict[str, Any] | None:
            email = await client.email(email_id)
            return email if email["sync_retry_count"] else None

        late = await eventually(gave_up)
        endpoint.delay = 0
        email = await synced(client, email_id)

    assert late["sync_error_code"] == "receiver_slow"
    assert (email["sync_error"], email["sync_error_code"]) == (None, None)
    assert {message_id for message_id, _ in endpoint.messages} == {email["idempotency_key"]}


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        (400, "receiver_refused", "synced"),
        (413, "document_too_large", "failed"),
        (422, "document_refused", "failed"),
        (302, "receiver_refused", "synced"),
        (401, "receiver_refused", "synced"),
        (404, "receiver_refused", "synced"),
        (409, "receiver_busy", "synced"),
        (429, "receiver_busy", "synced"),
        (500, "receiver_busy", "synced"),
        (503, "receiver_busy", "synced"),
    ],
)
async def test_a_response_of_an_endpoint_is_an_error_of_the_email_or_of_the_target(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver, status: int, code: str, ends: str
) -> None:
    settings = syncing(settings, endpoint.url, sync_retry_min_seconds=0.5)
    endpoint.statuses = [status]
    async with serving(settings, zendesk) as client, working(settings):
        email_id = await send_file(client, file=False)

        async def was_refused() -> dict[str, Any] | None:
            email = await client.email(email_id)
            return email if email["sync_error"] else None

        refused = await eventually(was_refused)
        email = await synced(client, email_id, ends)

    assert (refused["sync_error_code"], refused["processing_status"]) == (code, "completed")
    assert refused["sync_error"].startswith("webhook: answered")
    assert endpoint.url not in refused["sync_error"]
    assert len(endpoint.messages) == (ends == "synced")
    assert email["sync_retry_count"] == (ends == "synced")


async def test_an_exhausted_budget_fails_the_sync_and_an_operator_may_retry_it(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver
) -> None:
    settings = syncing(settings, endpoint.url, sync_max_retries=2)
    endpoint.statuses = [500] * 3
    async with serving(settings, zendesk) as client, working(settings):
        email_id = await send_file(client, file=False)
        failed = await synced(client, email_id, "failed")
        await retry(client.res, email_id, "tests", "sync")
        email = await synced(client, email_id)

    assert (failed["sync_retry_count"], failed["sync_error_code"]) == (2, "receiver_busy")
    assert failed["processing_status"] == "completed"
    assert email["sync_retry_count"] == 0
    assert len(endpoint.messages) == 1


async def test_a_document_over_16_mb_is_refused_for_good_and_the_email_stays_completed(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, database: asyncpg.Connection
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails")
    async with serving(settings, zendesk) as client:
        email_id = await send_file(client, file=False)
        await database.execute("UPDATE incoming_emails SET subject = repeat('x', 16 * 1024 * 1024)")
        async with working(settings):

            async def is_refused() -> bool:
                return bool(await database.fetchval("SELECT sync_status = 'failed' FROM incoming_emails"))

            await eventually(is_refused)

    row = await database.fetchrow("SELECT * FROM incoming_emails WHERE id = $1", email_id)
    assert (row["processing_status"], row["sync_error_code"]) == ("completed", "document_too_large")
    assert "16 MiB" in row["sync_error"]
    assert await documents.count_documents({}) == 0


@pytest.mark.parametrize(
    ("error_code", "code"),
    [(13, "receiver_refused"), (18, "receiver_refused"), (50, "receiver_slow"), (8, "receiver_busy")],
)
async def test_an_error_of_mongodb_itself_is_transient(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, error_code: int, code: str
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails", sync_retry_min_seconds=0.5)
    async with serving(settings, zendesk) as client, working(settings):
        await documents.database.client.admin.command(
            {
                "configureFailPoint": "failCommand",
                "mode": {"times": 1},
                "data": {"failCommands": ["update"], "errorCode": error_code},
            }
        )
        email_id = await send_file(client, file=False)

        async def was_refused() -> dict[str, Any] | None:
            email = await client.email(email_id)
            return email if email["sync_error"] else None

        refused = await eventually(was_refused)
        await synced(client, email_id)

    assert refused["sync_error_code"] == code
    assert await documents.count_documents({}) == 1


async def test_a_document_that_violates_the_validator_is_refused_for_good(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any
) -> None:
    await documents.database.create_collection("emails", validator={"subject": {"$ne": "forbidden"}})
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails")
    async with serving(settings, zendesk) as client, working(settings):
        email = await synced(client, await send_file(client, file=False, subject="forbidden"), "failed")
        await synced(client, await send_file(client, file=False, subject="allowed"))

    assert (email["sync_error_code"], email["sync_retry_count"]) == ("document_refused", 0)
    assert await documents.count_documents({}) == 1


async def test_a_presigned_link_leads_to_the_file_without_any_credentials(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver, bucket: Bucket
) -> None:
    settings = syncing(
        settings, endpoint.url, sync_links="presigned", storage_url=f"s3://{bucket.name}/files"
    )
    async with serving(settings, zendesk) as client, working(settings):
        await synced(client, await send_file(client))
    ((_, body),) = endpoint.messages
    (file,) = body["data"]["attachments"]
    async with ClientSession() as session, session.get(URL(file["url"], encoded=True)) as answer:
        content = await answer.read()

    assert (answer.status, content) == (200, PDF)
    days = (datetime.fromisoformat(file["url_expires_at"]) - datetime.now(UTC)).total_seconds() / 86400
    assert 6.9 < days <= 7


async def test_a_key_that_no_header_can_hold_still_has_a_message_id(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver
) -> None:
    settings = syncing(settings, endpoint.url)
    async with serving(settings, zendesk) as client, working(settings):
        receipt = await client.send(zendesk.payload(webhook_id="wo\r\nX-Evil: ü 💥"))
        email = await synced(client, receipt["email_id"])

    ((message_id, body),) = endpoint.messages
    assert message_id.startswith("sha256:")
    assert body["data"]["id"] == email["idempotency_key"]


async def test_the_password_of_a_target_is_in_no_error_and_no_log(
    settings: Settings, zendesk: Zendesk, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = syncing(
        settings, "mongodb://user:hunter2@127.0.0.1:1/a.b", "http://user:hunter2@127.0.0.1:1/x"
    )
    settings = settings.model_copy(update={"sync_seconds": 1})
    async with serving(settings, zendesk) as client, working(settings):
        email_id = await send_file(client, file=False)

        async def is_tried() -> dict[str, Any] | None:
            email = await client.email(email_id)
            return email if email["sync_error"] else None

        email = await eventually(is_tried)

    written = capsys.readouterr()
    assert "hunter2" not in str(email) + written.out + written.err + repr(settings)
    assert email["sync_error_code"] == "receiver_away"


async def test_the_log_holds_nothing_of_a_document(
    settings: Settings, mongodb_server: str, documents: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "DEBUG")
    async with open_resources(syncing(settings, f"{mongodb_server}/holdfast.emails")) as res:
        content = {"subject": "Invoice for November", "version": 1}
        await res.targets[0].write(Document("key", 1, is_first=True, content=content))

    assert await documents.count_documents({"subject": "Invoice for November"}) == 1
    assert "November" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.b.", "a..b", "a.b$c"])
def test_an_invalid_name_of_a_collection_is_a_wrong_setting(settings: Settings, name: str) -> None:
    with pytest.raises(SettingsError, match="SYNC_URL: cannot be used"):
        check_usable(syncing(settings, f"mongodb://u:hunter2@127.0.0.1:1/{name}"))


def test_secrets_of_the_sync_are_not_printed() -> None:
    shown = repr(Settings(sync_url=(SecretStr("mongodb://u:hunter2@h/a.b"),)))

    assert "hunter2" not in shown
