"""The evidence log: every fact has an entry, every entry a place, and a verification finds nothing where nothing is."""

import asyncio

import asyncpg

from service.evidence import sequence
from service.jobs import identity
from service.jobs.messages import ignore
from service.postgres import evidence_log
from service.postgres.engine import transaction
from service.resources import Resources
from tests.support.evidence import (
    add_whole,
    announce_again,
    codes,
    kinds,
    place_all,
    populate,
    verified,
)


async def test_all_that_the_service_records_is_logged_and_verified(
    res: Resources, database: asyncpg.Connection
) -> None:
    await populate(res)

    found = await verified(res)

    assert found.findings == []
    assert (await kinds(database)) == {
        "accepted": 6,
        "announced": 6,
        "stored": 6,
        "message": 12,
        "ended": 6,
        "act": 4,
        "reopened": 2,
    }
    assert tuple(found.counts[name] for name in ("emails", "acts", "heads")) == (6, 4, 4)


async def test_merged_and_withdrawn_emails_are_no_findings(
    res: Resources, database: asyncpg.Connection
) -> None:
    first, second, third, *_ = await populate(res)
    async with res.engine.connect() as conn:
        await identity.merge(conn, first, second)
        await conn.exec_driver_sql("DELETE FROM attachments WHERE email_id = $1", (third,))
        await ignore(conn, [third])
    await place_all(res, wants_head=True)

    assert set() == await codes(res)
    assert {"merged": 1, "withdrawn": 1}.items() <= (await kinds(database)).items()


async def test_entries_of_open_transactions_are_placed_once_they_commit(
    res: Resources, database: asyncpg.Connection, database_url: str
) -> None:
    """The number of an entry that commits late is smaller than those placed before it."""
    await sequence.begin(res)
    late = await asyncpg.connect(database_url)
    insert = "INSERT INTO evidence_entries (kind, facts) VALUES ('note', '{\"kind\": \"note\"}')"
    transaction = late.transaction()
    await transaction.start()
    await late.execute(insert)
    for _ in range(4):
        await database.execute(insert)
        await place_all(res)
    low = await database.fetchval("SELECT low FROM evidence_log")
    await transaction.commit()
    await late.close()
    for _ in range(3):
        await place_all(res)

    placed = await database.fetch("SELECT entry_id FROM evidence_leaves ORDER BY index")
    assert [row["entry_id"] for row in placed] == [2, 3, 4, 5, 1]
    assert (low, await database.fetchval("SELECT low FROM evidence_log")) == (0, 5)


async def test_several_processes_place_each_entry_once(res: Resources, database: asyncpg.Connection) -> None:
    await sequence.begin(res)
    for number in range(8):
        await add_whole(res, number)

    async def place() -> None:
        for _ in range(10):
            await sequence.step(res, batch=3)

    await asyncio.gather(*(place() for _ in range(4)))
    await place_all(res)

    assert await database.fetchval("SELECT count(*) FROM evidence_entries") == await database.fetchval(
        "SELECT count(DISTINCT entry_id) FROM evidence_leaves"
    )
    assert set() == await codes(res)


async def test_a_removal_leaves_hashes_and_nothing_to_guess_from(
    res: Resources, database: asyncpg.Connection
) -> None:
    """As a purge or an erasure does it, also for facts that have no place in the tree yet."""
    first, second, *_ = await populate(res, 3)
    await announce_again(res, 9_000 + 1)  # an e-mail of its own, whose entry is not placed yet
    third = await database.fetchval("SELECT max(id) FROM incoming_emails")
    removed = [first, third]
    async with res.engine.connect() as conn, transaction(conn):
        for table in ("attempts", "attachments", "messages", "announcements", "email_words"):
            await conn.exec_driver_sql(f"DELETE FROM {table} WHERE email_id = ANY($1)", (removed,))
        await conn.exec_driver_sql(
            "UPDATE operator_actions SET reason = NULL WHERE email_id = ANY($1)", (removed,)
        )
        await conn.exec_driver_sql("DELETE FROM incoming_emails WHERE id = ANY($1)", (removed,))
        await evidence_log.remove(conn, removed, {"receipt": 7})
    async with res.engine.connect() as conn:
        await conn.exec_driver_sql("DELETE FROM attachments WHERE email_id = $1", (second,))
        await evidence_log.forget(conn, second, "stored", 0)
    await place_all(res, wants_head=True)

    assert set() == await codes(res)
    left = await database.fetch(
        "SELECT kind, salt, facts FROM evidence_entries WHERE email_id = ANY($1) AND facts IS NOT NULL",
        removed,
    )
    assert [row["kind"] for row in left] == ["removed", "removed"]
    erased = await database.fetchval(
        "SELECT count(*) FROM evidence_entries WHERE salt IS NULL AND facts IS NULL"
    )
    assert erased == await database.fetchval("SELECT count(*) FROM evidence_entries WHERE hash IS NOT NULL")
    await database.execute(
        "INSERT INTO incoming_emails (id, zendesk_ticket_id) OVERRIDING SYSTEM VALUE VALUES ($1, '1')", first
    )
    assert {"email_is_back"} == await codes(res)
