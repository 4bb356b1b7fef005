"""Workers that end, targets that are down, and messages that are lost: each finished e-mail is synced."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources, open_resources
from service.sync.attempt import sync
from service.sync.sweep import sync_for_ever
from service.targets.document import Document
from tests.conftest import eventually, program, serving, working
from tests.support.proxy import before_mongodb
from tests.support.targets import Receiver, send_file, synced, syncing


async def test_the_sweep_syncs_emails_with_lost_messages(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, attempt_number, sync_status)"
        " SELECT n::text, 'completed', 1, 'pending' FROM generate_series(1, 300) AS n"
    )
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails")

    async def are_synced() -> bool:
        left = await database.fetchval("SELECT count(*) FROM incoming_emails WHERE sync_status <> 'synced'")
        return bool(left == 0)

    async with working(settings):
        await eventually(are_synced)

    assert await documents.count_documents({}) == 300


async def test_a_worker_killed_after_the_write_costs_only_time(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, tmp_path: Path
) -> None:
    points = tmp_path / "points"
    await asyncio.to_thread(points.mkdir)
    await asyncio.to_thread((points / "after_target").write_text, "kill")
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails", sync_seconds=1)
    async with serving(settings, zendesk) as client:
        async with program("service", "worker", settings=settings, FAULT_POINTS=str(points)) as falls:
            email_id = await send_file(client)
            code = await asyncio.wait_for(falls.wait(), 60)
        held = await client.email(email_id)
        written = await documents.find_one({})
        await expire(client.res)
        async with working(settings):
            email = await synced(client, email_id)

    assert code == -9
    assert (held["sync_status"], written["_id"]) == ("pending", held["idempotency_key"])
    assert email["sync_attempt_number"] == 2
    assert await documents.count_documents({}) == 1


async def expire(res: Resources) -> None:
    """End the lease of a sync without waiting for it."""
    async with res.engine.connect() as conn:
        await conn.exec_driver_sql("UPDATE incoming_emails SET sync_due_at = now()")


async def test_a_sync_that_kills_every_worker_fails_in_the_end(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver, database: asyncpg.Connection
) -> None:
    settings = syncing(settings, endpoint.url)
    async with serving(settings, zendesk) as client:
        email_id = await send_file(client, file=False)
        await database.execute(
            "UPDATE incoming_emails SET sync_unsettled = 5, attempt_number = 1, processing_status = 'completed',"
            " started_at = now(), completed_at = now()"
        )
        async with working(settings):
            email = await synced(client, email_id, "failed")

    assert (email["sync_error_code"], email["processing_status"]) == ("abandoned", "completed")
    assert endpoint.messages == []


async def test_a_worker_that_shuts_down_hands_back_its_syncs(
    settings: Settings, zendesk: Zendesk, endpoint: Receiver
) -> None:
    settings = syncing(settings, endpoint.url, sync_seconds=30)
    endpoint.delay = 60
    async with serving(settings, zendesk) as client:
        async with working(settings):
            email_id = await send_file(client, file=False)

            async def is_synced() -> bool:
                return bool((await client.email(email_id))["sync_attempt_number"])

            await eventually(is_synced)
        left = await client.email(email_id)
        endpoint.delay = 0
        async with working(settings):
            email = await synced(client, email_id)

    assert (left["sync_status"], left["sync_retry_count"], left["sync_error"]) == ("pending", 0, None)
    # The worker may claim it once more during its shutdown, and hands it back again.
    assert email["sync_attempt_number"] > left["sync_attempt_number"] > 0
    assert email["sync_retry_count"] == 0


@pytest.mark.parametrize("takes", [lambda res: sync(res, 1), sync_for_ever], ids=["message", "sweep"])
async def test_a_sync_claimed_during_shutdown_is_handed_back(
    takes: Callable[[Resources], Coroutine[Any, Any, None]],
    settings: Settings,
    database: asyncpg.Connection,
    endpoint: Receiver,
) -> None:
    """No other worker could claim it before the lease ends."""
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, attempt_number, sync_status)"
        " VALUES ('1', 'completed', 1, 'pending')"
    )

    async def waits() -> bool:
        return bool(await database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    async with open_resources(syncing(settings, endpoint.url)) as res:
        async with database.transaction():
            await database.execute("LOCK incoming_emails")
            task = asyncio.create_task(takes(res))
            await eventually(waits)
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({task})

    row = await database.fetchrow(
        "SELECT sync_status, sync_attempt_number, sync_unsettled, sync_due_at <= now() AS due FROM incoming_emails"
    )
    assert tuple(row or ()) == ("pending", 1, 0, True)
    assert endpoint.messages == []


async def test_a_target_that_is_down_does_not_delay_the_other_target(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, endpoint: Receiver
) -> None:
    async with before_mongodb(mongodb_server) as (proxy, url):
        proxy.cut()
        settings = syncing(settings, url, endpoint.url, sync_seconds=1)
        async with serving(settings, zendesk) as client, working(settings):
            email_id = await send_file(client, file=False)

            async def is_tried() -> dict[str, Any] | None:
                email = await client.email(email_id)
                return email if email["sync_error"] else None

            waiting = await eventually(is_tried)
            posted = len(endpoint.messages)
            await proxy.resume()
            await synced(client, email_id)

    assert waiting["sync_error"].startswith("mongodb: ")
    assert posted >= 1
    assert await documents.count_documents({}) == 1
    assert len(endpoint.newest) == 1


async def test_while_one_target_is_down_the_other_gets_each_email_once(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, endpoint: Receiver
) -> None:
    async with before_mongodb(mongodb_server) as (proxy, url):
        proxy.cut()
        settings = syncing(settings, url, endpoint.url, sync_seconds=1)
        async with serving(settings, zendesk) as client, working(settings):
            ids = [await send_file(client, file=False) for _ in range(20)]

            async def all_are_there_and_were_tried_again() -> bool:
                emails = [await client.email(email_id) for email_id in ids]
                return len(endpoint.newest) == 20 and all(each["sync_retry_count"] > 2 for each in emails)

            await eventually(all_are_there_and_were_tried_again)
            await proxy.resume()
            for email_id in ids:
                await synced(client, email_id)

    assert len(endpoint.messages) == 20
    assert await documents.count_documents({}) == 20


async def test_a_frozen_server_does_not_delay_the_shutdown(
    settings: Settings, mongodb_server: str, documents: Any
) -> None:
    """The driver itself would wait for a quarter of a minute."""
    async with before_mongodb(mongodb_server) as (proxy, url):
        settings = syncing(settings, url, sync_seconds=600)
        async with asyncio.timeout(None) as budget, open_resources(settings) as res:
            await res.targets[0].write(Document("key", 1, is_first=True, content={"version": 1}))
            proxy.freeze()
            budget.reschedule(asyncio.get_running_loop().time() + 10)

    assert not budget.expired()
