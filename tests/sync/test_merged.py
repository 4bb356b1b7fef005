"""What the targets have of an e-mail that became part of another one: one document that says so, written once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.jobs import attempts, identity
from service.jobs.attempts import ClaimRequest, Settlement
from service.jobs.waiting import Job
from service.queries.reconciliations import get_reconciliation
from service.reconcile.run import RunOptions, reconcile
from service.resources import Resources, open_resources
from service.sync.attempt import sync
from tests.support.merging import add_attempt, add_email, add_file, add_message, url
from tests.support.targets import Receiver, syncing, write_documents


async def add_finished(database: asyncpg.Connection, key: str, status: str = "synced") -> int:
    email_id = await add_email(database, idempotency_key=key, sync_status=status, sync_attempt_number=1)
    await add_attempt(database, email_id, 1)
    return email_id


async def merge(res: Resources, into: int, gone: int) -> None:
    await res.run(lambda conn: identity.merge(conn, into, gone))


async def test_the_document_of_a_merged_email_says_what_it_became(
    settings: Settings, database: asyncpg.Connection, mongodb_server: str, documents: Any, endpoint: Receiver
) -> None:
    first, second = await add_finished(database, "one"), await add_finished(database, "two")
    async with open_resources(syncing(settings, f"{mongodb_server}/holdfast.emails", endpoint.url)) as res:
        await write_documents(res, [first, second])
        endpoint.messages.clear()

        await merge(res, first, second)
        await sync(res, first)

    found = {each.pop("_id"): each async for each in documents.find({})}
    assert found["one"]["status"] == "completed"
    replaced = found["two"]
    assert (replaced["status"], replaced["version"], replaced["email_id"]) == ("merged", 2, second)
    assert (replaced["merged_into"], replaced["merged_into_key"]) == (first, "one")
    ids = [message_id for message_id, _ in endpoint.messages]
    assert ids == ["one", "two:2"]
    assert endpoint.messages[1][1]["type"] == "email.merged"
    assert endpoint.messages[1][1]["data"]["merged_into_key"] == "one"


async def test_a_document_is_replaced_once(
    settings: Settings, database: asyncpg.Connection, endpoint: Receiver
) -> None:
    first, second = await add_finished(database, "one"), await add_finished(database, "two")
    async with open_resources(syncing(settings, endpoint.url)) as res:
        await merge(res, first, second)
        await sync(res, first)
        await database.execute("UPDATE incoming_emails SET sync_status = 'pending', sync_due_at = now()")
        await sync(res, first)

    assert [message_id for message_id, _ in endpoint.messages] == ["one", "two:2", "one"]
    assert await database.fetchval("SELECT synced_at IS NOT NULL FROM merged_emails")


async def test_a_refused_document_is_tried_again(
    settings: Settings, database: asyncpg.Connection, endpoint: Receiver
) -> None:
    first, second = await add_finished(database, "one"), await add_finished(database, "two")
    endpoint.statuses = [200, 503]
    async with open_resources(syncing(settings, endpoint.url)) as res:
        await merge(res, first, second)
        await sync(res, first)
        told = await database.fetchval("SELECT synced_at FROM merged_emails")
        await database.execute("UPDATE incoming_emails SET sync_due_at = now()")
        res.circuit_breakers.report("webhook", None)
        await sync(res, first)

    assert told is None
    assert await database.fetchval("SELECT synced_at IS NOT NULL FROM merged_emails")
    assert await database.fetchval("SELECT sync_status FROM incoming_emails") == "synced"


async def test_a_merge_that_changes_nothing_in_a_target_begins_no_sync(
    res: Resources, database: asyncpg.Connection
) -> None:
    first = await add_finished(database, "one")
    second = await add_email(database, "queued", sync_status="pending")

    await merge(res, first, second)

    row = await database.fetchrow("SELECT sync_status, attempt_number FROM incoming_emails")
    assert tuple(row) == ("synced", 1)
    assert await database.fetchval("SELECT version FROM merged_emails") is None


@pytest.mark.parametrize("what", ["file", "message"])
async def test_an_email_that_changed_by_a_merge_has_a_new_version(
    settings: Settings, database: asyncpg.Connection, endpoint: Receiver, what: str
) -> None:
    first = await add_finished(database, "one")
    second = await add_email(database, sync_status="not_applicable")
    if what == "file":
        await add_file(database, second, source_url=url("x"), sha256="aa" * 32)
    else:
        await add_message(database, second)
    async with open_resources(syncing(settings, endpoint.url)) as res:
        await merge(res, first, second)
        await sync(res, first)

    ((message_id, body),) = endpoint.messages
    assert (message_id, body["data"]["version"]) == ("one:2", 2)


@pytest.mark.parametrize(
    "known",
    [
        {"subject": "Invoice"},
        {"from_email": "ann@customer.example", "from_name": "Ann"},
        {"sent_at": datetime(2026, 1, 31, tzinfo=UTC)},
    ],
    ids=["subject", "sender", "date"],
)
async def test_an_email_that_learns_by_a_merge_what_its_webhook_lacked_has_a_new_version(
    settings: Settings, database: asyncpg.Connection, endpoint: Receiver, known: dict[str, Any]
) -> None:
    first = await add_finished(database, "one")
    second = await add_email(database, sync_status="not_applicable", **known)
    async with open_resources(syncing(settings, endpoint.url)) as res:
        await merge(res, first, second)
        await sync(res, first)

    ((message_id, body),) = endpoint.messages
    assert (message_id, body["data"]["version"]) == ("one:2", 2)
    assert body["data"][next(iter(known))] is not None


async def test_an_email_that_failed_as_abandoned_and_completes_by_a_merge_has_another_message(
    settings: Settings, database: asyncpg.Connection, endpoint: Receiver
) -> None:
    """No person retried it, and none of its attempts failed: but the receiver has a document of it."""
    first = await add_email(
        database,
        "processing",
        idempotency_key="one",
        attempt_number=5,
        abandoned_count=4,
        lease_until=datetime.now(UTC),
    )
    for number in range(1, 5):
        await add_attempt(database, first, number, "abandoned")
    await add_attempt(database, first, 5, None)
    second = await add_email(database, "queued", idempotency_key="two")
    async with open_resources(syncing(settings, endpoint.url)) as res:
        await res.run(lambda conn: attempts.take_back(conn, 1, sync_status="pending"))
        await sync(res, first)
        await merge(res, first, second)
        (claim,) = await res.run(
            lambda conn: attempts.claim(conn, [ClaimRequest(Job(first, 6), "worker.1", timedelta(minutes=1))])
        )
        assert claim
        done = Settlement(claim, "completed", sync_status="pending")
        assert await res.run(lambda conn: attempts.settle(conn, [done])) == [True]
        await sync(res, first)

    told = [(message_id, body["data"]["status"]) for message_id, body in endpoint.messages]
    assert told == [("one:5", "failed"), ("one:6", "completed")]


async def test_reconciliation_takes_no_document_of_a_merged_email_for_a_strangers(
    settings: Settings, database: asyncpg.Connection, mongodb_server: str, documents: Any
) -> None:
    first, second = await add_finished(database, "one"), await add_finished(database, "two")

    async def findings(res: Resources) -> list[str]:
        run_id = await reconcile(res, RunOptions("ada (tests)"), lambda _share, _seen: None)
        return [each.kind for each in (await get_reconciliation(res.engine, run_id)).findings]

    async with open_resources(syncing(settings, f"{mongodb_server}/holdfast.emails")) as res:
        await write_documents(res, [first, second])
        await merge(res, first, second)
        before = await findings(res)
        await sync(res, first)
        after = await findings(res)
        await documents.update_one({"_id": "two"}, {"$set": {"status": "completed"}})  # as from a backup
        restored = await findings(res)

    assert (before, after, restored) == ([], [], ["extra"])
