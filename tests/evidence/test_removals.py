"""What was purged or erased leaves hashes alone in the evidence log, and a verification finds nothing wrong."""

import hashlib

import asyncpg

from service.custody import erasure, objects, receipts
from service.custody.holds import HoldOrder, set_hold
from service.custody.removal import remove
from service.custody.scopes import scope_of
from service.postgres import evidence_log
from service.postgres.engine import connect, transaction
from service.resources import Resources
from tests.support.erasing_emails import tables_with
from tests.support.evidence import codes, kinds, place_all, populate


async def erase(res: Resources, **scope: str | int) -> None:
    number = await erasure.start(res, scope_of({**scope}), "She asked for it.", "ann (api)")
    row = await erasure.run(res, number)
    assert row.status == "done"


async def purge(res: Resources, email_id: int) -> None:
    async with connect(res.engine) as conn, transaction(conn):
        receipt = await receipts.begin(conn, "purge", "worker")
        assert len(await remove(conn, [email_id], receipt)) == 1
    await receipts.finish(res, receipt)


async def test_nothing_can_be_guessed_of_what_was_removed_and_all_is_proven(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await populate(res)
    file = await database.fetchval("SELECT sha256 FROM attachments WHERE email_id = $1", ids[2])
    of_whole = [*await hashes_of(database, ids[0]), *await hashes_of(database, ids[1])]
    await set_hold(res, HoldOrder("tax-2026", "The auditor asked for it.", email_ids=[ids[5]]), "ann (api)")

    await erase(res, email=ids[0])
    await erase(res, ticket="4002")
    await erase(res, file=file)
    await purge(res, ids[3])
    while await objects.step(res):
        pass
    await place_all(res, wants_head=True)

    assert await codes(res) == set()
    assert {"removed": 3, "receipt": 4}.items() <= (await kinds(database)).items()
    for gone in [hashlib.sha256(b'{"number": 1}').hexdigest(), file, *of_whole]:
        assert await tables_with(database, gone) == []


async def test_an_erased_reason_is_recorded_again_without_what_it_said(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await populate(res)
    await database.execute("UPDATE operator_actions SET reason = '[erased]' WHERE email_id = $1", ids[2])
    changed = await codes(res)
    acts = [
        row["id"]
        for row in await database.fetch("SELECT id FROM operator_actions WHERE email_id = $1", ids[2])
    ]
    async with connect(res.engine) as conn, transaction(conn):
        await evidence_log.forget_acts(conn, acts)
    await place_all(res, wants_head=True)

    assert changed == {"row_changed"}
    assert await codes(res) == set()


async def hashes_of(database: asyncpg.Connection, email_id: int) -> list[str]:
    """Return the hashes of the files, the record and the original of an e-mail."""
    query = """
        SELECT sha256 FROM attachments WHERE email_id = $1
        UNION ALL SELECT record_sha256 FROM messages WHERE email_id = $1
        UNION ALL SELECT original_sha256 FROM messages WHERE email_id = $1
    """
    return [row["sha256"] for row in await database.fetch(query, email_id)]
