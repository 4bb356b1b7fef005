"""Removal: an e-mail goes with all that hangs on it, and leaves what its objects and documents need."""

import asyncio

import asyncpg
import pytest

from service.backfill import statements
from service.custody import receipts
from service.custody.removal import RemovedEmail, remove
from service.jobs import discovery, messages, tickets
from service.jobs.discovery import Discovery
from service.jobs.messages import KeptComment
from service.jobs.tickets import TicketKey
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import connect
from service.resources import Resources
from service.storage.spool import object_key
from service.zendesk.messages import read_page
from tests.support.removing import add_file, add_finished, add_whole, content, left_of, put
from tests.support.rows import NOON, add


@pytest.fixture
async def receipt_id(res: Resources, database: asyncpg.Connection) -> int:
    return await res.run(lambda conn: receipts.begin(conn, "purge", "tests"))


async def removed(res: Resources, receipt_id: int, *email_ids: int, **more: bool) -> list[RemovedEmail]:
    async with connect(res.engine) as conn:
        return await remove(conn, email_ids, receipt_id, **more)


async def test_an_email_goes_with_every_row_that_names_it(
    res: Resources, database: asyncpg.Connection, receipt_id: int
) -> None:
    email_id, other = await add_whole(database), await add_whole(database, "other")
    rows_of_other = await left_of(database, other)

    [gone] = await removed(res, receipt_id, email_id, 999_999)

    contents = {
        content(name) for name in ("file of whole", "record of whole", "suspended whole", "damaged whole")
    }
    # The evidence log says that it was removed.
    assert await left_of(database, email_id) == {"evidence_entries": 1}
    assert await left_of(database, other) == rows_of_other
    assert gone == RemovedEmail(email_id, ["key whole", "merged whole"], 4, 1, 110, frozenset(contents))
    assert {*await database.fetch("SELECT key FROM objects_to_remove")} == {
        (object_key(each),) for each in contents
    }
    assert await database.fetchval("SELECT count(*) FROM reconciliation_findings") == 2
    assert await database.fetch("SELECT email_id, reason FROM operator_actions ORDER BY email_id") == [
        (email_id, None),
        (other, "Private."),
    ]
    assert await database.fetchval("SELECT count(*) FROM source_emails") == 1
    assert await database.fetchval("SELECT count(*) FROM tickets") == 1
    counts = "emails, files, bytes, held"
    assert tuple(await database.fetchrow(f"SELECT {counts} FROM receipts")) == (1, 1, 110, 0)


async def test_the_targets_are_told_of_each_document_that_they_may_have(
    res: Resources, database: asyncpg.Connection, receipt_id: int
) -> None:
    synced = await add_whole(database)
    never = await add_finished(database, sync_status="not_applicable")
    no_key = await add_finished(database, sync_status="failed", sync_attempt_number=1)
    await database.execute("ALTER TABLE incoming_emails ALTER idempotency_key DROP NOT NULL")
    await database.execute("UPDATE incoming_emails SET idempotency_key = NULL WHERE id = $1", no_key)

    await removed(res, receipt_id, synced, never, no_key)

    await database.execute("ALTER TABLE incoming_emails ALTER idempotency_key SET NOT NULL")
    columns = "email_id, version, target_due_at IS NOT NULL, comment_id, document_key"
    kept = await database.fetch(f"SELECT {columns} FROM removed_emails ORDER BY email_id")
    assert [tuple(row)[:4] for row in kept] == [
        (synced, 4, True, str(100 + synced)),
        (never, 4, False, str(100 + never)),
        (no_key, 4, True, str(100 + no_key)),
        (synced + 1000, 6, True, None),
    ]
    assert kept[2]["document_key"] == f"holdfast:email:{no_key}"


async def test_an_erasure_keeps_no_identity_of_a_comment(
    res: Resources, database: asyncpg.Connection
) -> None:
    receipt_id = await res.run(lambda conn: receipts.begin(conn, "erasure", "tests", "She asked."))
    email_id = await add_whole(database)

    await removed(res, receipt_id, email_id)

    identity = "account_id, ticket_id, comment_id"
    assert {*await database.fetch(f"SELECT {identity} FROM removed_emails")} == {(None, None, None)}


async def test_an_unfinished_email_stays_unless_it_is_asked_for(
    res: Resources, database: asyncpg.Connection, receipt_id: int
) -> None:
    email_ids = [
        await add_finished(database, processing_status=status) for status in ("received", "processing")
    ]

    before = await removed(res, receipt_id, *email_ids)
    after = await removed(res, receipt_id, *email_ids, unfinished=True)

    assert (before, [each.email_id for each in after]) == ([], email_ids)


async def test_a_suspended_email_that_zendesk_still_lists_keeps_its_number_alone(
    res: Resources, database: asyncpg.Connection, receipt_id: int
) -> None:
    email_id = await add_whole(database)
    await database.execute("UPDATE suspended_emails SET gone_at = NULL, from_address = 'a@b.example'")

    await removed(res, receipt_id, email_id)

    columns = "suspended_id, from_address, text, contents, record_key"
    assert tuple(await database.fetchrow(f"SELECT {columns} FROM suspended_emails")) == (
        "whole",
        None,
        "",
        [],
        "",
    )


async def test_the_facts_of_a_ticket_stay_as_long_as_an_email_of_it(
    res: Resources, database: asyncpg.Connection, receipt_id: int
) -> None:
    first, second = await add_whole(database), await add_whole(database, "second")
    count = "SELECT count(*) FROM tickets"

    await removed(res, receipt_id, first)
    with_one = await database.fetchval(count)
    await removed(res, receipt_id, second)

    assert (with_one, await database.fetchval(count)) == (1, 0)


async def test_concurrent_removals_of_a_shared_content_request_its_object(
    res: Resources, database: asyncpg.Connection, receipt_id: int
) -> None:
    """Each of them still sees the row of the other one."""
    email_ids = [await add_finished(database) for _ in range(8)]
    for email_id in email_ids:
        key = await add_file(database, email_id, 0, "logo")

    await asyncio.gather(*(removed(res, receipt_id, email_id) for email_id in email_ids))

    assert await database.fetch("SELECT key, state FROM objects_to_remove") == [(key, "waiting")]
    assert await database.fetchval("SELECT emails FROM receipts") == len(email_ids)


async def test_a_removal_is_whole_or_not_at_all(
    res: Resources, database: asyncpg.Connection, receipt_id: int
) -> None:
    email_id = await add_whole(database)
    await add(database, "receipt_entries", receipt_id=receipt_id, entry="before")
    rows = await left_of(database, email_id)
    await database.execute("ALTER TABLE receipts ADD CONSTRAINT none CHECK (emails = 0)")

    try:
        with pytest.raises(Exception, match="none"):
            await removed(res, receipt_id, email_id)
    finally:
        await database.execute("ALTER TABLE receipts DROP CONSTRAINT none")

    assert await left_of(database, email_id) == rows
    assert await database.fetchval("SELECT count(*) FROM removed_emails") == 0


@pytest.mark.parametrize("account_id", ["7", ""])
async def test_no_search_of_zendesk_brings_a_purged_email_back(
    res: Resources, database: asyncpg.Connection, receipt_id: int, account_id: str
) -> None:
    gone, left = await add_whole(database), await add_whole(database, "other")
    comments = [str(100 + gone), str(100 + left), "9999"]
    found = [Discovery("4711", comment_id, None) for comment_id in comments]
    await removed(res, receipt_id, gone)

    async with connect(res.engine) as conn:
        missing = await discovery.count_missing(conn, account_id, found)
        new = await discovery.add(conn, account_id, found, origin="backfill", sync_status="not_applicable")
        ticket = TicketKey(account_id or "7", "4711")
        known = await messages.known_emails(conn, ticket, 0, comments)
        for comment_id in comments:
            row = {"account": "a.example", "ticket_id": "4711", "comment_id": comment_id, "created_at": NOON}
            await conn.execute(statements.LIST, {"account_id": "7", **row})

    assert (missing, [*new]) == (1, [("4711", "9999")])
    assert {comments[0], comments[1]} <= known.comments
    listed = await database.fetch("SELECT comment_id FROM source_emails ORDER BY comment_id")
    assert [row["comment_id"] for row in listed] == sorted(comments[1:])


async def test_a_look_up_keeps_the_other_comments_of_a_ticket_when_an_email_is_removed_meanwhile(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, receipt_id: int
) -> None:
    ticket = TicketKey("7", "4711")
    zendesk.add_email(4711)
    zendesk.add_email(4711)
    read = read_page({"comments": zendesk.state.comments["4711"], "users": []})
    gone, left = [
        await add_finished(database, comment_id=each.comment_id, processing_status="processing")
        for each in read
    ]
    kept = [
        KeptComment(each, await put(res, each.record), email_id)
        for each, email_id in zip(read, (gone, left), strict=True)
    ]
    await res.run(lambda conn: tickets.lease(conn, [ticket]))
    await removed(res, receipt_id, gone, unfinished=True)

    await res.run(
        lambda conn: messages.keep(conn, ticket, kept, waiting={gone, left}, sync_status="not_applicable")
    )

    assert await database.fetch("SELECT email_id FROM messages") == [(left,)]
    assert await database.fetch("SELECT id FROM incoming_emails") == [(left,)]
