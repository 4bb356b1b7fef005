"""What was purged or erased leaves hashes alone in the evidence log, and a verification finds nothing wrong."""

import asyncio
import hashlib
from dataclasses import replace

import asyncpg

from service.custody import erasure, objects, receipts, tombstone_copies
from service.custody.holds import HoldOrder, release_hold, set_hold
from service.custody.removal import remove
from service.custody.scopes import scope_of
from service.evidence import later
from service.postgres import evidence_log
from service.postgres.engine import connect, transaction
from service.resources import Resources
from service.storage import objects as storage
from tests.support.erasing_emails import tables_with
from tests.support.evidence import codes, kinds, place_all, populate, verified
from tests.support.s3 import Bucket, Fault, freezes


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


async def test_what_an_older_version_brought_back_is_found_until_a_copy_of_the_tombstones_erases_it(
    res: Resources, database: asyncpg.Connection
) -> None:
    """During a rollback, a version without tombstones received the erased webhook and the erased file again."""
    ids = await populate(res)
    # The statements of an older version record nothing.
    await database.execute("CREATE TEMP TABLE email AS SELECT * FROM incoming_emails WHERE id = $1", ids[0])
    await database.execute("UPDATE email SET id = 900")
    await database.execute("CREATE TEMP TABLE file AS SELECT * FROM attachments WHERE email_id = $1", ids[2])
    await erase(res, email=ids[0])
    await erase(res, file=await database.fetchval("SELECT sha256 FROM file"))
    before = await codes(res)

    await database.execute("INSERT INTO incoming_emails OVERRIDING SYSTEM VALUE SELECT * FROM email")
    await database.execute("DELETE FROM attachments WHERE email_id = $1", ids[2])
    await database.execute("INSERT INTO attachments SELECT * FROM file")
    await later.record_all(res, "ann (shell)")
    back = [each for each in (await verified(res)).findings if "is here again" in each["message"]]
    await set_hold(res, HoldOrder("tax-2026", "The auditor asked for it.", email_ids=[900]), "ann (api)")
    held = [each for each in (await verified(res)).findings if "is here again" in each["message"]]
    await release_hold(res, "tax-2026", "ann (api)", "Over.")
    lines = [line async for line in tombstone_copies.copied(res)]
    done = await erasure.run(res, await tombstone_copies.restore(res, lines, "ann (shell)"))

    assert before == set()
    assert {(each["code"], each["email_id"]) for each in back} == {
        ("erased_but_present", 900),
        ("erased_but_present", ids[2]),
    }
    assert {each["email_id"] for each in held} == {ids[2]}
    assert done.status == "done"
    assert await database.fetchval("SELECT count(*) FROM incoming_emails WHERE id = 900") == 0
    await place_all(res)
    assert await codes(res) == set()


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


async def test_an_email_that_is_erased_while_its_files_are_verified_is_no_finding(
    res: Resources, bucket: Bucket
) -> None:
    there = replace(res, storage=storage.open_storage(f"s3://{bucket.name}"))
    ids = await populate(there, 1)
    heads = await storage.heads(there.storage)
    bucket.faults.append(Fault(freezes, ("head",), skip=len(heads)))  # the first look at an object

    verifying = asyncio.create_task(verified(there))
    await bucket.frozen.wait()
    await erase(there, email=ids[0])
    while await objects.step(there):
        pass
    bucket.thawed.set()

    assert (await verifying).findings == []
