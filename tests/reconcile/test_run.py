"""A reconciliation finds all differences between Postgres and the target, and repairs them towards Postgres."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from bson.decimal128 import Decimal128
from sqlalchemy import event

from service.config.settings import Settings
from service.errors import Rejected
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import run
from service.queries.reconciliations import ReconciliationDetail, get_reconciliation
from service.reconcile import documents as compared
from service.reconcile import record
from service.reconcile.expected import states_of
from service.reconcile.finding import Finding
from service.reconcile.hourly import minute, reconcile_hourly
from service.reconcile.repair import remove_documents
from service.reconcile.run import RunOptions, part_of_storage, reconcile
from service.resources import Resources, open_resources
from service.storage.interface import RANGES
from service.sync.attempt import sync
from service.targets.document import make_document, read_records
from service.targets.target import collection_of
from tests.conftest import Client, eventually, serving, working
from tests.support.files import PDF
from tests.support.proxy import before_mongodb
from tests.support.rows import add_many_finished
from tests.support.targets import Receiver, add_synced, receiver, synced, syncing, write_documents


@pytest.fixture
async def targeted(
    settings: Settings, mongodb_server: str, documents: Any, res: Resources
) -> AsyncIterator[Resources]:
    async with open_resources(syncing(settings, f"{mongodb_server}/holdfast.emails")) as opened:
        yield opened


async def compare(res: Resources, ends: str = "done", **options: Any) -> ReconciliationDetail:
    run_id = await reconcile(res, RunOptions("ada (tests)", **options), lambda _share, _seen: None)
    found = await get_reconciliation(res.engine, run_id)
    assert found.status == ends, found.error
    return found


async def key(database: asyncpg.Connection, email_id: int) -> str:
    return str(await database.fetchval("SELECT idempotency_key FROM incoming_emails WHERE id = $1", email_id))


async def status(database: asyncpg.Connection, email_id: int) -> str:
    return str(await database.fetchval("SELECT sync_status FROM incoming_emails WHERE id = $1", email_id))


def kinds(run: ReconciliationDetail) -> list[tuple[str, int | None]]:
    return [(each.kind, each.email_id) for each in run.findings]


async def test_run_without_differences_finds_none(
    settings: Settings, zendesk: Zendesk, targeted: Resources
) -> None:
    """The whole way: webhook, file, sync, and the hash of the document read back."""
    async with serving(targeted.settings, zendesk) as client, working(targeted.settings):
        file = zendesk.add_file("invoice.pdf", PDF)
        receipt = await client.send(zendesk.payload(attachments=[file], subject="Grüße \u0000\u202e"))
        await synced(client, receipt["email_id"])

    run = await compare(targeted)

    assert (run.status, run.counts, run.open) == ("done", {}, 0)
    assert (run.emails, run.documents, run.objects, run.bytes) == (1, 1, 1, len(PDF))
    assert run.targets == "mongodb"


@pytest.mark.parametrize(
    "change",
    [
        {"$set": {"subject": "another"}},
        {"$unset": {"subject": ""}},
        {"$set": {"more": 1}},
        {"$set": {"version": 0}},
        {"$set": {"version": "one"}},
        {"$set": {"email_id": 10**9}},
        {"$set": {"email_id": "none"}},
        {"$set": {"source": "another"}},
        {"$set": {"attachments": "none"}},
    ],
    ids=str,
)
async def test_changed_document_is_found_and_synced_again(
    change: dict[str, Any], targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    _, email_id, _ = await add_synced(targeted, database, 3)
    await documents.update_one({"email_id": email_id}, change)

    looked = await compare(targeted)
    before_mongodb = await status(database, email_id)
    fixed = await compare(targeted, fix="all")
    await sync(targeted, email_id)
    again = await compare(targeted)

    [(how, fields)] = change.items()
    assert (kinds(looked), looked.open, before_mongodb) == ([("different", email_id)], 1, "synced")
    assert looked.findings[0].detail["fields"] == [*fields]
    assert bool(fields.keys() & looked.findings[0].detail["document"].keys()) == (how == "$set")
    assert (kinds(fixed), fixed.open, fixed.repaired) == ([("different", email_id)], 0, {"different": 1})
    assert (again.counts, await status(database, email_id)) == ({}, "synced")
    noted = await database.fetchrow("SELECT actor, action, email_id FROM operator_actions")
    assert noted is not None
    assert tuple(noted) == ("reconcile", "sync", email_id)


async def test_missing_document_is_synced_again(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    _, email_id, _ = await add_synced(targeted, database, 3)
    await documents.delete_one({"email_id": email_id})

    fixed = await compare(targeted, fix="syncs")
    await sync(targeted, email_id)
    again = await compare(targeted)

    assert (kinds(fixed), fixed.open) == ([("missing", email_id)], 0)
    assert again.counts == {}


async def test_emails_from_before_the_target_are_missing_there(
    targeted: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_finished(database, 2, "not_applicable")

    run = await compare(targeted, fix="all")

    assert kinds(run) == [("missing", email_id) for email_id in ids]
    assert [await status(database, email_id) for email_id in ids] == ["pending", "pending"]


async def test_documents_without_an_email_are_removed_after_a_copy_is_saved(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    (email_id,) = await add_synced(targeted, database, 1)
    extra = {"_id": "gone", "source": "holdfast", "email_id": 77, "version": 3, "at": datetime.now(UTC)}
    await documents.insert_many([extra, {"source": "holdfast", "text": "without a number"}])

    looked = await compare(targeted)
    there = await documents.count_documents({})
    fixed = await compare(targeted, fix="all")

    assert (looked.counts, looked.open, there) == ({"extra": 2}, 2, 3)
    assert (fixed.counts, fixed.repaired, fixed.open) == ({"extra": 2}, {"extra": 2}, 0)
    assert [each["email_id"] async for each in documents.find({})] == [email_id]
    (copy,) = [each for each in fixed.findings if each.key == "gone"]
    assert copy.repair == "removed"
    assert copy.detail["document"]["version"] == {"$numberInt": "3"}
    assert "$date" in copy.detail["document"]["at"]


async def test_more_documents_than_a_step_holds_hide_no_difference_of_emails(
    targeted: Resources, database: asyncpg.Connection, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "MAX_DOCUMENTS", 100)
    ids = await add_synced(targeted, database, 3)
    await documents.delete_one({"email_id": ids[1]})
    await documents.insert_many([{"email_id": 0, "source": "holdfast", "_id": str(i)} for i in range(250)])

    runs = [await compare(targeted, fix="all", force=True) for _ in range(4)]

    assert [run_.counts for run_ in runs] == [{"missing": 1, "extra": 100}, {"extra": 100}, {"extra": 50}, {}]
    assert await documents.count_documents({}) == 2


async def test_documents_of_other_programs_are_reported_and_never_changed(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    await add_synced(targeted, database, 1)
    theirs = [{"_id": "a", "source": "crm"}, {"_id": {"b": 1}, "email_id": 1}, {"_id": 5, "email_id": 10**12}]
    await documents.insert_many(theirs)

    run = await compare(targeted, fix="all")

    assert (run.counts, run.repaired, run.open) == ({"foreign": 3}, {}, 0)
    assert await documents.count_documents({}) == 4


async def test_document_newer_than_postgres_is_replaced(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    (email_id,) = await add_synced(targeted, database, 1)
    await documents.update_one({"email_id": email_id}, {"$set": {"version": 9}})
    # The sync may have failed because of it.
    await database.execute("UPDATE incoming_emails SET sync_status = 'failed'")

    looked = await compare(targeted, fix="syncs")
    fixed = await compare(targeted, fix="all")
    await sync(targeted, email_id)

    assert (kinds(looked), looked.open) == ([("ahead", email_id)], 1)
    assert (fixed.repaired, fixed.open) == ({"ahead": 1}, 0)
    assert fixed.findings[0].detail["document"]["version"] == {"$numberInt": "9"}
    assert [each["version"] async for each in documents.find({})] == [1]


async def test_repair_that_stopped_after_the_removal_is_completed(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    (email_id,) = await add_many_finished(database, 1, "failed")
    await database.execute("UPDATE incoming_emails SET sync_error_code = 'receiver_ahead'")

    fixed = await compare(targeted, fix="all")
    await sync(targeted, email_id)

    assert (kinds(fixed), fixed.open) == ([("missing", email_id)], 0)
    assert [each["email_id"] async for each in documents.find({})] == [email_id]


async def test_collection_with_documents_of_another_installation_is_not_emptied(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    """DATABASE_URL may name an empty database, or two installations may write to one collection."""
    await add_synced(targeted, database, 5)
    await documents.insert_many([{"email_id": i, "source": "holdfast", "_id": f"b{i}"} for i in range(20)])

    run_ = await compare(targeted, "failed", fix="all")
    kept = await documents.count_documents({})
    forced = await compare(targeted, fix="all", force=True)

    assert (run_.error_code, run_.repaired, kept) == ("target_is_another", {}, 25)
    assert (forced.repaired, await documents.count_documents({})) == ({"extra": 20}, 5)


@pytest.mark.parametrize(
    "harm",
    [{"version": Decimal128("NaN")}, {"_id": "a\0b"}, {"_id": "long" * 500}],
    ids=["nan", "nul", "long"],
)
async def test_document_of_unknown_shape_breaks_no_run(
    targeted: Resources, database: asyncpg.Connection, documents: Any, harm: dict[str, Any]
) -> None:
    (email_id,) = await add_synced(targeted, database, 1)
    of_it = await documents.find_one({})
    await documents.delete_one({})
    await documents.insert_one({**of_it, **harm})

    fixed = await compare(targeted, fix="all")
    await sync(targeted, email_id)
    again = await compare(targeted)

    assert (fixed.open, again.counts) == (0, {})


async def test_pending_and_failed_syncs_are_no_differences(
    targeted: Resources, database: asyncpg.Connection
) -> None:
    on_its_way, running, failed = await add_many_finished(database, 3)
    await database.execute(
        "UPDATE incoming_emails SET sync_status = 'pending', sync_begun_at = now() - interval '2 h' WHERE id = $1",
        on_its_way,
    )
    await database.execute("UPDATE incoming_emails SET processing_status = 'queued' WHERE id = $1", running)
    await database.execute("UPDATE incoming_emails SET sync_status = 'failed' WHERE id = $1", failed)

    run = await compare(targeted, fix="all")

    assert (run.counts, run.unfinished, run.overdue, run.not_synced) == ({}, 2, 1, 1)


async def test_no_difference_is_found_while_emails_arrive_and_are_synced(
    targeted: Resources, zendesk: Zendesk, database: asyncpg.Connection, documents: Any
) -> None:
    async with serving(targeted.settings, zendesk) as client, working(targeted.settings):
        over = asyncio.Event()
        ids: list[int] = []

        async def keep_sending() -> None:
            while not over.is_set():
                ids.append((await client.send(zendesk.payload()))["email_id"])
                if len(ids) % 3 == 0 and (await client.email(ids[-3]))["processing_status"] == "completed":
                    await client.post(f"/api/v1/emails/{ids[-3]}/retry")
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(keep_sending())
        runs: list[ReconciliationDetail] = []
        while len(runs) < 8 or len(ids) <= 20:
            runs.append(await compare(targeted, fix="all"))
        over.set()
        await sending
        await synced(client, ids[-1])

        async def all_synced() -> bool:
            return not await database.fetchval(
                "SELECT count(*) FROM incoming_emails WHERE sync_status <> 'synced'"
            )

        await eventually(all_synced)
        last = await compare(targeted)

    assert [run.counts for run in [*runs, last] if run.counts] == []
    assert last.documents == len(ids)


async def test_thousands_are_compared_with_few_statements_per_step(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    ids = await add_many_finished(database, 5_000)
    records = await run(targeted.engine, 60, lambda conn: read_records(conn, ids))
    made = [make_document(each, {}) for each in records.values()]
    await documents.insert_many([{"_id": each.key, **each.content} for each in made])
    await documents.delete_one({"email_id": ids[2_500]})
    statements: list[str] = []
    engine = targeted.engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    run_ = await compare(targeted, fix="syncs")

    assert (run_.emails, run_.documents, kinds(run_)) == (5_000, 4_999, [("missing", ids[2_500])])
    assert len(statements) < 60


async def test_since_compares_later_emails_even_after_a_replay_of_an_older_one(
    targeted: Resources, database: asyncpg.Connection
) -> None:
    old = await add_many_finished(database, 50)
    await database.execute(
        "UPDATE incoming_emails SET received_at = now() - interval '2 days' + id * interval '1 ms'"
    )
    replayed, *new = await add_many_finished(database, 4)
    await database.execute(
        "UPDATE incoming_emails SET received_at = now() - interval '25 h' WHERE id = $1", replayed
    )
    await database.execute(
        "INSERT INTO quarantined_webhooks (idempotency_key, raw_body, raw_headers, error_code, error, replayed_at,"
        " email_id) VALUES ('k', '', '[]', 'c', 'e', now(), $1)",
        replayed,
    )

    run_ = await compare(targeted, since=datetime.now(UTC) - timedelta(days=1))

    assert kinds(run_) == [("missing", email_id) for email_id in (old[-1], replayed, *new)]


async def test_target_that_goes_down_during_a_run_fails_it_with_a_reason(
    settings: Settings, mongodb_server: str, documents: Any, database: asyncpg.Connection, res: Resources
) -> None:
    await add_many_finished(database, 2_500, "pending")
    async with before_mongodb(mongodb_server) as (proxy, url):
        away = syncing(settings, url, sync_seconds=2)
        async with open_resources(away) as opened:
            run_id = await reconcile(opened, RunOptions("ada (tests)"), lambda _share, _seen: proxy.cut())
    run_ = await get_reconciliation(res.engine, run_id)

    assert (run_.status, run_.emails) == ("failed", 1_000)
    assert run_.error_code in {"receiver_away", "receiver_slow"}
    assert run_.error


async def test_without_a_target_only_the_storage_is_compared(
    res: Resources, client: Client, worker: Any, zendesk: Zendesk
) -> None:
    receipt = await client.send(zendesk.payload(attachments=[zendesk.add_file("a.pdf", PDF)]))
    await client.until(receipt["email_id"], "completed")

    run_ = await compare(res)

    assert (run_.status, run_.targets, run_.emails, run_.objects, run_.counts) == ("done", None, 0, 1, {})


async def test_with_an_endpoint_only_pending_and_failed_syncs_are_counted(
    settings: Settings, database: asyncpg.Connection, res: Resources
) -> None:
    late, _ = await add_many_finished(database, 2, "pending")
    await database.execute(
        "UPDATE incoming_emails SET sync_begun_at = now() - interval '2 h' WHERE id = $1", late
    )
    await add_many_finished(database, 3, "failed")
    async with receiver() as kept, open_resources(syncing(settings, kept.url)) as opened:
        run_ = await compare(opened)

    assert (run_.targets, run_.overdue, run_.not_synced, run_.counts) == ("webhook", 1, 3, {})
    assert isinstance(kept, Receiver)
    assert kept.messages == []


async def test_only_one_run_at_a_time_and_a_killed_one_does_not_block(
    targeted: Resources, database: asyncpg.Connection
) -> None:
    killed = await run(
        targeted.engine,
        5,
        lambda conn: record.begin(conn, actor="a", fix="all", since=None, targets=None),
    )
    assert killed is not None

    with pytest.raises(Rejected, match="running"):
        await compare(targeted)
    await database.execute("UPDATE reconciliations SET seen_at = now() - interval '6 min'")
    next_one = await compare(targeted)

    assert next_one.status == "done"
    given_up = await get_reconciliation(targeted.engine, killed.id)
    assert (given_up.status, given_up.error_code) == ("abandoned", "not_heard_of")
    with pytest.raises(Rejected, match="abandoned"):  # it resumes too late, and writes nothing
        await run(targeted.engine, 5, lambda conn: record.save(conn, killed))


async def test_stopped_run_is_abandoned_at_once(targeted: Resources, database: asyncpg.Connection) -> None:
    await add_many_finished(database, 2000)
    begun = asyncio.Event()
    going = asyncio.create_task(
        reconcile(targeted, RunOptions("ada (tests)"), lambda _share, _seen: begun.set())
    )
    await begun.wait()
    going.cancel()
    await asyncio.wait({going})

    stopped = await get_reconciliation(targeted.engine, 1)
    assert going.cancelled()
    assert (stopped.status, stopped.error_code) == ("abandoned", "stopped")
    assert (await compare(targeted)).status == "done"


async def test_hourly_run_happens_once_rotates_parts_and_begins_only_syncs(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    missing, ahead = await add_synced(targeted, database, 2)
    await documents.delete_one({"email_id": missing})
    await documents.update_one({"email_id": ahead}, {"$set": {"version": 9}})

    runs = [await reconcile_hourly(targeted) for _ in range(2)]
    await database.execute("UPDATE reconciliations SET started_at = now() - interval '1 h'")
    runs.append(await reconcile_hourly(targeted))

    assert runs[0] is not None
    assert runs[1] is None
    assert runs[2] is not None
    first = await get_reconciliation(targeted.engine, runs[0])
    third = await get_reconciliation(targeted.engine, runs[2])
    assert (first.part, third.part, first.actor, first.fix) == (0, 1, "reconcile", "syncs")
    assert (first.counts, first.repaired, first.open) == ({"missing": 1, "ahead": 1}, {"missing": 1}, 1)
    assert (third.counts, third.open) == ({"ahead": 1}, 1)
    assert await status(database, missing) == "pending"


def test_parts_cover_the_whole_storage_and_minutes_differ() -> None:
    parts = [prefix for part in range(24) for prefix in part_of_storage(part)]

    assert parts == [*RANGES]
    assert len({minute(f"https://{name}.zendesk.com") for name in "abcdefgh"}) > 4
    assert all(0 <= minute(str(number)) < 60 for number in range(500))


async def test_runs_are_kept_for_ninety_days(targeted: Resources, database: asyncpg.Connection) -> None:
    await add_many_finished(database, 1)
    old = await compare(targeted)
    await database.execute("UPDATE reconciliations SET finished_at = now() - interval '91 days'")

    await compare(targeted)

    assert old.findings
    assert await database.fetchval("SELECT count(*) FROM reconciliations") == 1
    assert await database.fetchval("SELECT count(*) FROM reconciliation_findings") == 1


async def test_document_that_is_correct_by_now_is_not_removed(
    targeted: Resources, database: asyncpg.Connection, documents: Any
) -> None:
    """A step may remove thousands one by one, while e-mails arrive, are retried and are synced."""
    ids = await add_synced(targeted, database, 2)
    ahead, came = await run(targeted.engine, 30, lambda conn: states_of(conn, ids))
    findings = [
        Finding("ahead", ahead.key, ahead.email_id, found_key=ahead.key),
        Finding("extra", came.key, found_key=came.key),
    ]
    await database.execute("UPDATE incoming_emails SET attempt_number = 2 WHERE id = $1", ahead.email_id)
    await write_documents(targeted, ids)
    begin = partial(record.begin, actor="ada (tests)", fix="all", since=None, targets="mongodb")
    begun = await run(targeted.engine, 30, begin)
    there = collection_of(targeted.targets)
    assert begun
    assert there

    await remove_documents(targeted, there, begun, findings, {ahead.key: ahead})

    assert await documents.count_documents({}) == 2
