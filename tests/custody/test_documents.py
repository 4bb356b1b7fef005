"""Documents of removed e-mails: each target is told, however late, and nothing else of the e-mail stays there."""

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.custody import receipts
from service.custody.documents import step
from service.custody.removal import remove
from service.errors import Permanent
from service.queries.reconciliations import get_reconciliation
from service.reconcile.run import RunOptions, reconcile
from service.resources import Resources, open_resources
from service.targets.document import Document
from tests.support.merging import add_attempt, add_email
from tests.support.targets import receiver, syncing, write_documents


async def add_synced(database: asyncpg.Connection, key: str) -> int:
    email_id = await add_email(database, idempotency_key=key, sync_status="synced", sync_attempt_number=1)
    await add_attempt(database, email_id, 1)
    return email_id


async def erase(res: Resources, *email_ids: int) -> None:
    receipt_id = await res.run(lambda conn: receipts.begin(conn, "erasure", "tests"))
    await res.run(lambda conn: remove(conn, email_ids, receipt_id))


async def send_all(res: Resources, database: asyncpg.Connection) -> None:
    await database.execute("UPDATE removed_emails SET target_due_at = now() WHERE target_due_at IS NOT NULL")
    for target in res.targets:
        res.circuit_breakers.report(target.name, None)
    while await step(res):
        pass


def quiet(*_: object) -> None:
    """Report no progress."""


async def test_each_target_is_told_and_keeps_nothing_else(
    settings: Settings, database: asyncpg.Connection, mongodb_server: str, documents: Any
) -> None:
    email_id = await add_synced(database, "one")
    async with (
        receiver() as endpoint,
        open_resources(syncing(settings, f"{mongodb_server}/holdfast.emails", endpoint.url)) as res,
    ):
        await write_documents(res, [email_id])
        await erase(res, email_id)
        endpoint.statuses = [503]
        endpoint.messages.clear()
        await step(res)
        first = await database.fetchrow(
            "SELECT target_done_at, target_retries, target_error_code FROM removed_emails"
        )
        await send_all(res, database)

    [found] = [each async for each in documents.find({})]
    assert {*found} == {"_id", "source", "email_id", "version", "status", "deleted_at"}
    assert (found["_id"], found["status"], found["version"]) == ("one", "deleted", 2)
    assert {body["type"] for _, body in endpoint.messages} == {"email.deleted"}
    assert first is not None
    assert first[0] is None
    assert first[1] == 1
    assert await database.fetchval("SELECT target_done_at IS NOT NULL FROM removed_emails")


async def test_a_deletion_waits_as_long_as_the_target_asks(
    settings: Settings, database: asyncpg.Connection
) -> None:
    email_id = await add_synced(database, "one")
    async with receiver() as endpoint, open_resources(syncing(settings, endpoint.url)) as res:
        await write_documents(res, [email_id])
        await erase(res, email_id)
        endpoint.statuses, endpoint.headers = [429], {"Retry-After": "120"}
        await step(res)
        refusal = res.circuit_breakers.refusal(res.targets[0].name)

    assert refusal is not None
    assert refusal.retry_after == timedelta(seconds=120)


async def test_without_a_target_a_document_stays_due(res: Resources, database: asyncpg.Connection) -> None:
    await erase(res, await add_synced(database, "one"))

    assert not await step(res)
    assert await database.fetchval("SELECT target_due_at <= now() FROM removed_emails")


async def test_a_late_sync_does_not_bring_a_document_back_and_reconcile_replaces_an_old_one(
    settings: Settings, database: asyncpg.Connection, mongodb_server: str, documents: Any
) -> None:
    gone, other = await add_synced(database, "one"), await add_synced(database, "two")
    async with open_resources(syncing(settings, f"{mongodb_server}/holdfast.emails")) as res:
        await write_documents(res, [gone, other])
        old = await documents.find_one({"_id": "one"})
        await erase(res, gone)
        await send_all(res, database)
        with pytest.raises(Permanent, match="later version"):  # a slow worker
            await res.targets[0].write(
                Document("one", 1, is_first=True, content={"source": "holdfast", "version": 1})
            )
        agreeing = await reconcile(res, RunOptions("tests"), quiet)
        await documents.replace_one({"_id": "one"}, old)
        again = await reconcile(res, RunOptions("tests", fix="all"), quiet)
        await send_all(res, database)

        runs = [await get_reconciliation(res.engine, each) for each in (agreeing, again)]
    assert [run.findings for run in runs] == [[], []]
    assert (await documents.find_one({"_id": "one"}))["status"] == "deleted"
    assert (await documents.find_one({"_id": "two"}))["status"] == "completed"
