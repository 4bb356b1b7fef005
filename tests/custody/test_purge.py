"""Purge: what is due goes, once, with one receipt, wherever the process is killed."""

import asyncio
import hashlib
import random
from collections.abc import Iterable
from contextlib import suppress

import asyncpg
import pytest

from service.config.settings import Settings
from service.custody.purge import purge
from service.custody.retention_rules import load_binding_rules
from service.custody.simulation import simulate
from service.errors import Transient
from service.resources import Resources, open_resources
from service.storage.spool import object_key
from tests.conftest import EMPTY
from tests.custody.test_holds import add_hold
from tests.support.examples import examples
from tests.support.removing import add_file, add_finished, content
from tests.support.rows import add


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"retention_floor_days": 0, "purge_per_second": 10_000})


async def add_rule(
    database: asyncpg.Connection, name: str = "old", position: int = 0, days: int = 30
) -> None:
    rule = {"position": position, "name": name, "filter": "{}", "keep_days": days, "created_by": "tests"}
    await add(database, "retention_rules", **rule)


async def add_emails(database: asyncpg.Connection, count: int, days: int = 31) -> list[int]:
    """Insert completed e-mails whose jobs ended some days ago, each with a file; some share it."""
    email_ids = []
    for number in range(count):
        email_id = await add_finished(
            database, idempotency_key=f"key {days} {number}", sync_status="not_applicable"
        )
        await add_file(database, email_id, 0, f"file {number % 3}")
        email_ids.append(email_id)
    await database.execute(
        "UPDATE incoming_emails SET completed_at = now() - $2 * interval '1 day', received_at = now() - interval '1 year'"
        " WHERE id = ANY($1)",
        email_ids,
        days,
    )
    return email_ids


def digest(keys: Iterable[str], contents: Iterable[str]) -> str:
    lines = sorted([*(f"email {key}" for key in {*keys}), *(f"sha256 {each}" for each in {*contents})])
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


async def ids(database: asyncpg.Connection) -> list[int]:
    return [row["id"] for row in await database.fetch("SELECT id FROM incoming_emails ORDER BY id")]


async def kill(res: Resources, database: asyncpg.Connection, turns: int, emails: int) -> None:
    """Run a purge, and stop it some turns of the loop after it has removed so many e-mails."""
    task = asyncio.create_task(purge(res, "tests"))
    while not task.done() and (await database.fetchval("SELECT sum(emails) FROM receipts") or 0) < emails:
        await asyncio.sleep(0.01)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_what_is_due_goes_once_wherever_the_process_ends(
    settings: Settings, database: asyncpg.Connection
) -> None:
    halves = 0
    for seed in range(examples(3)):
        chance = random.Random(seed)
        await add_rule(database)
        old, young = await add_emails(database, 25), await add_emails(database, 3, days=29)
        await add_hold(database, "case", None, *old[3:5])
        few = settings.model_copy(update={"purge_per_second": 5})
        async with open_resources(few) as res:
            for emails in (0, 0, 1, 6):
                await kill(res, database, chance.choice([5, 30, 80, 200]), emails)
                await database.execute("UPDATE receipts SET lease_until = now()")
            halves += await database.fetchval("SELECT count(*) FROM receipts WHERE emails BETWEEN 6 AND 22")
        async with open_resources(settings) as fast:
            await purge(fast, "tests")

        [receipt] = await database.fetch("SELECT * FROM receipts")
        assert await ids(database) == [*old[3:5], *young], seed
        assert (receipt["status"], receipt["emails"], receipt["files"]) == ("done", 23, 23)
        assert (receipt["rules"], receipt["objects"]) == ('{"old": 23}', 3)
        gone = [f"key 31 {number}" for number in range(25) if number not in {3, 4}]
        assert receipt["digest"] == digest(gone, [content(f"file {number}") for number in range(3)])
        assert await database.fetchval("SELECT count(*) FROM receipt_entries") == 0
        requested = [row["key"] for row in await database.fetch("SELECT key FROM objects_to_remove")]
        assert {*requested} == {object_key(content(f"file {number}")) for number in range(3)}
        await database.execute(EMPTY)
    assert halves == examples(3)


@pytest.mark.parametrize("stops_after", [0, 1, 3])
async def test_a_receipt_counts_each_email_that_a_hold_kept_once(
    settings: Settings, database: asyncpg.Connection, stops_after: int
) -> None:
    """Wherever the process ends. A plan says the same number."""
    await add_rule(database)
    old = await add_emails(database, 9)
    await add_hold(database, "case", None, old[0], old[4], old[7], old[8])
    few = settings.model_copy(update={"purge_per_second": 2})
    async with open_resources(few) as res:
        [planned] = (await simulate(res.engine, await res.run(load_binding_rules), 0)).outcomes
        await kill(res, database, 5, stops_after)
        await database.execute("UPDATE receipts SET lease_until = now()")
    async with open_resources(settings) as fast:
        await purge(fast, "tests")

    receipt = await database.fetchrow("SELECT emails, held, status FROM receipts")
    assert (planned.now.emails, planned.held) == (5, 4)
    assert tuple(receipt) == (5, 4, "done")
    assert await ids(database) == [old[0], old[4], old[7], old[8]]


async def test_two_processes_make_one_receipt(res: Resources, database: asyncpg.Connection) -> None:
    await add_rule(database)
    await add_emails(database, 10)

    done = await asyncio.gather(*(purge(res, "tests") for _ in range(3)))

    assert sorted(done, key=str)[1:] == [None, None]
    assert await database.fetchval("SELECT array_agg(emails) FROM receipts") == [10]


async def test_a_process_that_lost_its_lease_removes_nothing_more(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_rule(database)
    before = await add_emails(database, 3)
    await database.execute("""
        CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.lease_number = 99; RETURN NEW; END $$;
        CREATE TRIGGER take BEFORE UPDATE ON receipts FOR EACH ROW WHEN (NEW.emails > 0) EXECUTE FUNCTION take()
    """)
    try:
        with pytest.raises(Transient) as lost:
            await purge(res, "tests")
    finally:
        await database.execute("DROP FUNCTION take CASCADE")

    assert lost.value.code == "lease_lost"
    assert await ids(database) == before
    assert await database.fetchval("SELECT emails FROM receipts") == 0


async def test_nothing_due_makes_no_receipt(res: Resources, database: asyncpg.Connection) -> None:
    await add_emails(database, 2)

    assert await purge(res, "tests") is None
    assert await database.fetchval("SELECT count(*) FROM receipts") == 0


async def test_an_email_that_postgres_does_not_let_go_stops_no_other(
    res: Resources, database: asyncpg.Connection
) -> None:
    """A table of another system may refer to it."""
    await add_rule(database)
    email_ids = await add_emails(database, 5)
    await database.execute("CREATE TABLE invoices (email_id bigint REFERENCES incoming_emails)")
    try:
        await database.execute("INSERT INTO invoices VALUES ($1)", email_ids[2])
        await purge(res, "tests")
    finally:
        await database.execute("DROP TABLE invoices")

    assert await ids(database) == [email_ids[2]]
    assert await database.fetchval("SELECT emails FROM receipts WHERE status = 'done'") == 4
