"""A copy of the tombstones erases again all contents that a restored database has: files, originals, suspended files."""

import json

import asyncpg

from service.custody import erasure, tombstone_copies
from service.custody.holds import HoldOrder, release_hold, set_hold
from service.custody.scopes import scope_of
from service.postgres.selection import LastingFilter
from service.resources import Resources
from service.storage.spool import object_key
from tests.support.erasing_emails import tables_with
from tests.support.evidence import codes, place_all, populate, verified
from tests.support.rows import add

RECORD, FILE = "0" * 64, "1" * 64


async def erase_file(res: Resources, sha256: str) -> None:
    erasure_id = await erasure.start(res, scope_of({"file": sha256}), "Asked for.", "ada")
    assert (await erasure.run(res, erasure_id)).status == "done"


async def erase_again(res: Resources) -> None:
    lines = [line async for line in tombstone_copies.copied(res)]
    erasure_id = await tombstone_copies.restore(res, lines, "ada")
    assert (await erasure.run(res, erasure_id)).status == "done"


async def add_suspended(database: asyncpg.Connection) -> int:
    file = {"file_name": "a.pdf", "size": 1, "content_type": None, "sha256": FILE}
    return await add(
        database,
        "suspended_emails",
        account="a.example",
        suspended_id="1",
        text="Hi",
        files=json.dumps([{**file, "object_key": object_key(FILE), "error_code": None}]),
        record_sha256=RECORD,
        record_key=object_key(RECORD),
        record_size=1,
        contents=[RECORD, FILE],
    )


async def test_an_original_that_was_erased_by_its_hash_is_found_and_erased_again(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id, *_ = await populate(res, 2)
    sha256 = await database.fetchval("SELECT original_sha256 FROM messages WHERE email_id = $1", email_id)
    await database.execute(
        "CREATE TEMP TABLE message AS SELECT * FROM messages WHERE email_id = $1", email_id
    )
    await erase_file(res, sha256)
    before = await codes(res)
    await database.execute("DELETE FROM messages WHERE email_id = $1", email_id)
    await database.execute("INSERT INTO messages SELECT * FROM message")
    back = [each["message"] for each in (await verified(res)).findings]

    await erase_again(res)
    await place_all(res, wants_head=True)

    assert before == set()
    assert f"the original of e-mail {email_id} was erased, and is here again" in back
    assert await tables_with(database, sha256) == []
    assert await codes(res) == set()


async def test_an_erased_file_of_a_suspended_email_is_erased_again(
    res: Resources, database: asyncpg.Connection
) -> None:
    """While it is held it stays, as what a hold covers does."""
    await add_suspended(database)
    await erase_file(res, FILE)
    await database.execute("DELETE FROM suspended_emails; DELETE FROM objects_to_remove")
    suspended_id = await add_suspended(database)
    await set_hold(res, HoldOrder("audit", "An audit.", LastingFilter()), "ada")

    await erase_again(res)
    held = await database.fetchval("SELECT contents FROM suspended_emails")
    await release_hold(res, "audit", "ada", "Over.")
    await erase_again(res)

    row = await database.fetchrow("SELECT id, contents, files FROM suspended_emails")
    assert held == [RECORD, FILE]
    assert (row["id"], row["contents"]) == (suspended_id, [RECORD])
    assert [file["error_code"] for file in json.loads(row["files"])] == ["erased"]
    assert await database.fetchval("SELECT key FROM objects_to_remove") == object_key(FILE)
