"""The objects of messages: compared, verified, never taken for nobody's, and stored anew when they are lost."""

import json
from hashlib import sha256
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.jobs.refetch import reopen
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import connect
from service.reconcile.contents import BEFORE_ALL, ORIGINAL, RECORD, contents_between, contents_since
from service.resources import Resources
from service.storage.objects import put
from tests.conftest import serving, working
from tests.support.merging import add_email, add_file, add_message
from tests.support.places import Place, chunks, key
from tests.support.reconciling import compare, until_done, verify_all

EML = b"Message-ID: <1@acme.example>\r\nSubject: Invoice\r\n\r\nHello\r\n"
RECORDED = json.dumps({"id": 815, "plain_body": "Hello"}).encode()


def hashed(content: bytes) -> str:
    return sha256(content).hexdigest()


async def add_stored_message(
    there: Resources, database: asyncpg.Connection, status: str = "completed"
) -> int:
    """Insert an e-mail with a record and an original, and their objects."""
    for content in (RECORDED, EML):
        await put(there.storage, chunks(content), None)
    email_id = await add_email(database, status, looked_up_at=None)
    await add_message(
        database,
        email_id,
        record_sha256=hashed(RECORDED),
        record_size=len(RECORDED),
        original="stored",
        original_sha256=hashed(EML),
        original_key=key(EML),
        original_size=len(EML),
    )
    return email_id


async def message(database: asyncpg.Connection) -> Any:
    return await database.fetchrow("SELECT * FROM messages")


async def test_objects_of_messages_are_compared_and_are_not_unclaimed(
    there: Resources, place: Place, database: asyncpg.Connection
) -> None:
    await add_stored_message(there, database)
    await database.execute(
        "UPDATE incoming_emails SET received_at = now() + interval '1 day'"
    )  # nothing is young

    found = await compare(there)

    assert (found.counts, found.objects) == ({}, 2)


async def test_original_that_is_asked_for_again_is_not_unclaimed(
    there: Resources, place: Place, database: asyncpg.Connection
) -> None:
    await add_stored_message(there, database)
    await database.execute("UPDATE messages SET original = NULL")
    await database.execute("UPDATE incoming_emails SET received_at = now() + interval '1 day'")

    assert (await compare(there)).counts == {}


@pytest.mark.parametrize("content", [RECORDED, EML])
async def test_lost_object_of_a_message_is_found(
    there: Resources, place: Place, database: asyncpg.Connection, content: bytes
) -> None:
    email_id = await add_stored_message(there, database)
    await place.remove(key(content))

    whole = await compare(there)
    verified = await verify_all(there)

    for found in (whole, verified):
        assert found.counts == {"object_missing": 1}
        assert [(each.email_id, each.key) for each in found.findings] == [(email_id, key(content))]


@pytest.mark.parametrize("content", [RECORDED, EML])
async def test_object_of_a_message_with_wrong_bytes_is_found(
    there: Resources, place: Place, database: asyncpg.Connection, content: bytes
) -> None:
    await add_stored_message(there, database)
    await place.place(key(content), content[::-1])

    assert (await verify_all(there)).counts == {"object_damaged": 1}


async def test_contents_of_later_emails_come_with_their_messages(
    there: Resources, place: Place, database: asyncpg.Connection
) -> None:
    email_id = await add_stored_message(there, database)
    await add_file(database, email_id, 0, sha256="aa" * 32)
    other = await add_email(database)
    await add_message(database, other, record_sha256="bb" * 32)

    async with connect(there.engine) as conn:
        pages = []
        at = (0, 0)
        while page := await contents_since(conn, *at, most=2):
            pages += page
            at = page[-1].email_id, page[-1].position
        of_one = await contents_since(conn, email_id, BEFORE_ALL)

    places = [(each.email_id, each.position) for each in pages]
    assert places == [(email_id, RECORD), (email_id, ORIGINAL), (email_id, 0), (other, RECORD)]
    assert of_one == pages


async def test_contents_come_once_and_by_hash_whoever_shares_them(
    there: Resources, database: asyncpg.Connection
) -> None:
    first, second = await add_email(database), await add_email(database)
    same, other = "aa" * 32, "cc" * 32
    await add_message(
        database,
        first,
        record_sha256=same,
        original="stored",
        original_sha256=other,
        original_key="k",
        original_size=7,
    )
    await add_message(database, second, record_sha256="bb" * 32, original="not_available")
    await add_file(database, second, 0, sha256=same)
    await add_file(database, first, 0, sha256=other)
    await add_file(database, first, 1, sha256="dd" * 32)

    async with connect(there.engine) as conn:
        whole = await contents_between(conn, "", "g")
        paged, after = [], ""
        while page := await contents_between(conn, after, "g", 1):
            paged += page
            after = page[-1].sha256

    assert [each.sha256[:2] for each in whole] == ["aa", "bb", "cc", "dd"]
    assert paged == whole
    assert [each.email_id for each in whole] == [first, second, first, first]


@pytest.mark.parametrize("status", ["completed", "failed", "queued", "processing"])
async def test_a_lost_original_is_asked_for_again(
    there: Resources, place: Place, database: asyncpg.Connection, status: str
) -> None:
    await add_stored_message(there, database, status)

    opened, jobs = await there.run(lambda conn: reopen(conn, hashed(EML), "reconcile"))

    is_running = status == "processing"
    assert (opened, len(jobs)) == (0 if is_running else 1, 1 if status in {"completed", "failed"} else 0)
    row = await message(database)
    assert (row["original"], row["original_sha256"]) == ("stored" if is_running else None, hashed(EML))


async def test_a_waiting_email_with_a_lost_record_is_looked_up_again(
    there: Resources, place: Place, database: asyncpg.Connection
) -> None:
    await add_stored_message(there, database, "queued")
    await database.execute("UPDATE incoming_emails SET looked_up_at = now()")

    await there.run(lambda conn: reopen(conn, hashed(RECORDED), "reconcile"))

    assert await database.fetchval("SELECT looked_up_at FROM incoming_emails") is None
    assert (await message(database))["original"] == "stored"  # it is not lost


@pytest.mark.parametrize("how", ["reconcile", "verify"])
async def test_lost_record_is_stored_anew_from_zendesk(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place, database: asyncpg.Connection, how: str
) -> None:
    async with serving(stored, zendesk) as client, working(stored):
        comment = zendesk.add_email(4711, text="Hello")
        receipt = await client.send(zendesk.payload(comment_id=comment))
        email_id = int(receipt["email_id"])
        await client.until(email_id, "completed")
    before = await message(database)
    content = (await place.objects())[before["record_key"]]
    if how == "reconcile":
        await place.remove(before["record_key"])
    else:
        await place.place(before["record_key"], content[::-1])

    fixed = await compare(there, fix="all") if how == "reconcile" else await verify_all(there, fix=True)
    email = await until_done(stored, zendesk, email_id)
    last = await verify_all(there)

    assert [each.repair for each in fixed.findings] == ["fetched again"]
    assert email["processing_status"] == "completed"
    assert (await place.objects())[before["record_key"]] == content
    assert last.counts == {}
    assert dict(await message(database)) == dict(before)
