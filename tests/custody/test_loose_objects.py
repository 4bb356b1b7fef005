"""Loose objects: what was put and never named, or what rows forgot, is removed, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from service.custody import erasure, receipts
from service.custody.holds import HoldOrder, set_hold
from service.custody.removal import remove
from service.custody.scopes import scope_of
from service.jobs import loose_objects, merging, messages, tickets
from service.jobs.attachments import FileUpdate, mark
from service.jobs.erased import forget
from service.jobs.messages import KeptComment, SavedOriginal
from service.jobs.tickets import TicketKey
from service.postgres.engine import connect, transaction
from service.reconcile import steps, verify
from service.reconcile.contents import Content
from service.reconcile.finding import Finding
from service.reconcile.repair import keep_damaged
from service.resources import Resources
from service.storage.objects import StoredObject
from service.zendesk.messages import CommentMessage, read_page
from tests.support.removing import add_finished, is_there, remove_object_files
from tests.support.rows import add

TICKET = TicketKey("7", "4711")


async def put(res: Resources, content: bytes, email_id: int | None) -> StoredObject:
    """Put an object as an attempt does, and stop there, as if the worker were killed."""

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return await loose_objects.put(res, chunks(), None, email_id)


async def add_running(database: asyncpg.Connection, **columns: object) -> int:
    """Insert an e-mail with one file, whose first attempt runs."""
    email_id = await add_finished(
        database, **{"processing_status": "processing", "attempt_number": 1, **columns}
    )
    await add(database, "attachments", email_id=email_id, position=0, source_url="")
    return email_id


async def record(res: Resources, email_id: int, stored: StoredObject) -> None:
    async with connect(res.engine) as conn:
        assert await mark(conn, [FileUpdate((email_id, 1), 0, "stored", stored)]) == [True]


async def erase(res: Resources, email_id: int) -> int:
    receipt_id = await res.run(lambda conn: receipts.begin(conn, "erasure", "tests"))
    await res.run(lambda conn: remove(conn, [email_id], receipt_id, unfinished=True))
    return receipt_id


async def pass_time(database: asyncpg.Connection, res: Resources) -> None:
    """Let the time of all notes be over, and take the steps of the remover."""
    await database.execute("UPDATE loose_objects SET due_at = now()")
    await remove_object_files(res, database)


async def notes(database: asyncpg.Connection) -> int:
    return int(await database.fetchval("SELECT count(*) FROM loose_objects"))


def comment(comment_id: str, text: str = "Hello", **more: object) -> CommentMessage:
    """Make a comment as Zendesk lists it; another text makes another record."""
    made = {"id": int(comment_id), "type": "Comment", "author_id": 1, "created_at": "2026-11-30T12:00:00Z"}
    made |= {"plain_body": text, "public": True, "attachments": [], **more}
    [read] = read_page({"comments": [made], "users": []})
    return read


async def keep(res: Resources, email_id: int, found: CommentMessage) -> StoredObject:
    """Keep a comment as a look-up does."""
    stored = await put(res, found.record, email_id)
    kept = [KeptComment(found, stored, email_id)]
    await res.run(lambda conn: tickets.lease(conn, [TICKET]))
    await res.run(lambda conn: messages.keep(conn, TICKET, kept, waiting={email_id}, sync_status="pending"))
    return stored


async def save(res: Resources, original: SavedOriginal) -> None:
    await res.run(lambda conn: messages.save_original(conn, [original]))


async def test_the_statement_that_names_an_object_deletes_its_note(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add_running(database, comment_id="101")

    stored = await put(res, b"invoice", email_id)
    before = await notes(database)
    await record(res, email_id, stored)
    await keep(res, email_id, comment("101"))
    await save(res, SavedOriginal(email_id, await put(res, b"original", email_id)))
    redacted = comment("102", "▇▇▇▇", metadata={"redacted": True})
    assert redacted.is_redacted
    await keep(res, await add_running(database), redacted)

    assert (before, await notes(database)) == (1, 0)


@pytest.mark.parametrize("is_held", [False, True])
async def test_a_file_that_gets_another_content_leaves_its_first_object_to_the_remover(
    is_held: bool,  # noqa: FBT001 a table
    res: Resources,
    database: asyncpg.Connection,
) -> None:
    """What a hold covers is not deleted, not even half a file."""
    email_id = await add_running(database)
    if is_held:
        await set_hold(res, HoldOrder("audit", "An audit.", None, [email_id]), "ada")
    first = await put(res, b"half", email_id)
    await record(res, email_id, first)

    await record(res, email_id, await put(res, b"half", email_id))
    same = await notes(database)
    whole = await put(res, b"half and half", email_id)
    await record(res, email_id, whole)
    await pass_time(database, res)

    assert same == 0
    assert [await is_there(res, each.key) for each in (first, whole)] == [is_held, True]


async def test_a_comment_of_two_emails_that_become_one_leaves_no_note(
    res: Resources, database: asyncpg.Connection
) -> None:
    columns = {"comment_id": "", "zendesk_ticket_id": TICKET.ticket_id, "account_id": TICKET.account_id}
    email_ids = [await add_running(database, **columns) for _ in range(2)]
    found = comment("101")
    kept = [KeptComment(found, await put(res, found.record, each), each) for each in email_ids]

    await res.run(lambda conn: tickets.lease(conn, [TICKET]))
    await res.run(lambda conn: messages.keep(conn, TICKET, kept, waiting=email_ids, sync_status="pending"))

    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 1
    assert await notes(database) == 0


async def test_the_late_original_of_a_hung_attempt_replaces_none(
    res: Resources, database: asyncpg.Connection
) -> None:
    """The comment may have been redacted since: then the later answer is another one, or there is none."""
    email_id = await add_running(database, comment_id="101")
    await keep(res, email_id, comment("101"))
    first, second = await put(res, b"whole", email_id), await put(res, b"redacted", email_id)

    for each in (SavedOriginal(email_id, first), SavedOriginal(email_id, second), SavedOriginal(email_id)):
        await save(res, each)
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed'")
    await pass_time(database, res)

    assert await database.fetchval("SELECT original_key FROM messages WHERE original = 'stored'") == first.key
    assert await is_there(res, first.key)
    assert not await is_there(res, second.key)


@pytest.mark.parametrize("again", [b"another", None])
async def test_a_lost_original_that_returns_after_its_successor_is_removed(
    again: bytes | None, res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add_running(database, comment_id="101")
    await keep(res, email_id, comment("101"))
    lost = await put(res, b"original", email_id)
    await save(res, SavedOriginal(email_id, lost))

    await database.execute("UPDATE messages SET original = NULL")  # as `jobs/refetch` does
    await save(res, SavedOriginal(email_id, await put(res, again, email_id) if again else None))
    await pass_time(database, res)

    assert not await is_there(res, lost.key)
    assert await notes(database) == 0


async def test_what_a_killed_attempt_put_before_the_erasure_goes_with_the_email(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add_running(database)
    stored = await put(res, b"invoice", email_id)

    receipt_id = await erase(res, email_id)
    await remove_object_files(res, database)

    assert not await is_there(res, stored.key)
    assert await database.fetchval("SELECT objects_removed FROM receipts WHERE id = $1", receipt_id) == 1


async def test_what_an_attempt_puts_after_the_erasure_is_removed_though_it_is_killed_then(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Its note was there at the erasure. The request of the erasure found no object yet."""
    email_id = await add_running(database)
    stored = await put(res, b"invoice", email_id)
    await erase(res, email_id)
    await remove_object_files(res, database)
    await put(res, b"invoice", None)
    await database.execute("DELETE FROM loose_objects WHERE email_id IS NULL")

    await pass_time(database, res)

    assert (await is_there(res, stored.key), await notes(database)) == (False, 0)


async def test_an_object_put_while_it_is_being_removed_is_removed_once_more(
    res: Resources, database: asyncpg.Connection
) -> None:
    """The storage may have removed it just before the put."""
    stored = await put(res, b"invoice", None)
    removing = "INSERT INTO objects_to_remove (key, state, barrier) VALUES ($1, 'removing', '{}')"
    await database.execute(removing, stored.key)
    await res.run(lambda conn: loose_objects.give_up(conn, [stored]))
    await res.run(lambda conn: loose_objects.request_removals(conn, 10))
    while_removing = await notes(database)
    await database.execute("UPDATE objects_to_remove SET state = 'removed'")

    await pass_time(database, res)

    assert (while_removing, await is_there(res, stored.key), await notes(database)) == (2, False, 0)


async def test_an_object_waits_for_the_end_of_the_job(res: Resources, database: asyncpg.Connection) -> None:
    """Another attempt may find it, or the storage may be away."""
    email_id = await add_running(database)
    stored = await put(res, b"invoice", email_id)

    await pass_time(database, res)
    meanwhile = await is_there(res, stored.key)
    await database.execute("UPDATE incoming_emails SET processing_status = 'failed'")
    await pass_time(database, res)

    assert (meanwhile, await is_there(res, stored.key)) == (True, False)


async def test_an_object_that_another_email_names_stays(res: Resources, database: asyncpg.Connection) -> None:
    killed, other = await add_running(database), await add_running(database)
    stored = await put(res, b"logo", killed)
    await record(res, other, await put(res, b"logo", other))

    await erase(res, killed)
    await pass_time(database, res)

    assert (await is_there(res, stored.key), await notes(database)) == (True, 0)


async def test_an_older_record_of_a_message_is_removed_and_that_of_a_redacted_one_stays(
    res: Resources, database: asyncpg.Connection
) -> None:
    """A scan for malware changes the record of a comment. A redaction does not change what is kept here."""
    changed, redacted = [
        await add_running(database, comment_id=each, zendesk_ticket_id=TICKET.ticket_id)
        for each in ("101", "102")
    ]
    old, kept = await keep(res, changed, comment("101")), await keep(res, redacted, comment("102"))
    new = await keep(res, changed, comment("101", "Hello, scanned"))
    found = comment("102", "▇▇▇▇", metadata={"redacted": True})
    assert found.is_redacted
    refused = await keep(res, redacted, found)
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed'")

    await pass_time(database, res)

    assert [await is_there(res, each.key) for each in (old, new, kept, refused)] == [False, True, True, False]


@pytest.mark.parametrize("way", ["forget", "ignore", "merge"])
async def test_what_rows_forget_is_removed(res: Resources, database: asyncpg.Connection, way: str) -> None:
    into, gone = await add_finished(database, comment_id="101"), await add_running(database, comment_id="")
    stay = await keep(res, into, comment("101"))
    stored = await keep(res, gone, comment("102", "By an agent"))
    if way == "ignore":
        await database.execute("DELETE FROM attachments")

    async with connect(res.engine) as conn, transaction(conn):
        if way == "forget":
            await forget(conn, [gone])
        elif way == "ignore":
            await messages.ignore(conn, [gone])
        else:
            await merging.merge_pairs(conn, [merging.Pair(into, gone)])
    await pass_time(database, res)

    assert [await is_there(res, each.key) for each in (stay, stored)] == [True, False]


async def test_a_note_lasts_longer_than_any_upload_of_a_living_worker(
    res: Resources, database: asyncpg.Connection
) -> None:
    await put(res, b"one", 1)
    await put(res, b"two", None)

    waits = await database.fetch("SELECT due_at - now() AS wait FROM loose_objects ORDER BY number")

    assert [row["wait"] > timedelta(seconds=least) for row, least in zip(waits, (20, 3500), strict=True)] == [
        True,
        True,
    ]


@pytest.mark.parametrize("way", ["forget", "ignore"])
async def test_an_email_that_is_none_stays_while_a_hold_covers_it(
    res: Resources, database: asyncpg.Connection, way: str
) -> None:
    email_ids = [await add_finished(database, processing_status="processing") for _ in range(2)]
    await set_hold(res, HoldOrder("audit", "An audit.", None, email_ids[:1]), "ada")

    deletes = forget if way == "forget" else messages.ignore
    await res.run(lambda conn: deletes(conn, email_ids))

    left = await database.fetch("SELECT id FROM incoming_emails")
    assert [row["id"] for row in left] == email_ids[:1]


async def set_aside(res: Resources, database: asyncpg.Connection, *, is_recorded: bool) -> StoredObject:
    """Copy a damaged object as a verification does; a killed one records no finding."""
    email_id = await add_finished(database)
    run = await add(database, "reconciliations", kind="reconcile", actor="ada", fix="all")
    other = {"reconciliation_id": run, "kind": "extra", "key": "other", "email_id": email_id}
    await add(database, "reconciliation_findings", **other, detail=json.dumps({"document": "\0"}))
    stored = await put(res, b"invoice", email_id)
    about = {"sha256": stored.sha256, "size": stored.size, "object_key": stored.key, "status": "stored"}
    await add(database, "attachments", email_id=email_id, position=0, source_url="", **about)
    path = Path(str(res.settings.storage_url).removeprefix("file://")) / stored.key
    await asyncio.to_thread(path.write_bytes, b"invoicf")
    content = Content(stored.sha256, stored.size, stored.key, email_id, 0)
    run_id = await verify.begin(res, actor="ada", rate=1, since=None, fix=True)
    claim = await res.run(lambda conn: steps.claim_step(conn, timedelta(minutes=1)))
    kept = await keep_damaged(res, content)
    assert claim is not None
    assert claim.id == run_id
    assert kept is not None
    if is_recorded:
        finding = Finding("object_damaged", stored.key, email_id, {"kept_as": kept.key})
        await res.run(lambda conn: steps.record_copy(conn, claim, finding, kept, {}))
    return kept


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_the_copy_of_a_damaged_object_stays_if_its_finding_names_it(
    res: Resources, database: asyncpg.Connection, *, is_recorded: bool
) -> None:
    kept = await set_aside(res, database, is_recorded=is_recorded)
    # Another worker may have put the same copy, and lost its lease.
    await res.run(lambda conn: loose_objects.give_up(conn, [kept]))

    await pass_time(database, res)

    assert await is_there(res, kept.key) == is_recorded
    assert await notes(database) == 0


async def test_the_copy_of_a_damaged_object_goes_with_the_erased_file(
    res: Resources, database: asyncpg.Connection
) -> None:
    kept = await set_aside(res, database, is_recorded=True)
    sha256 = await database.fetchval("SELECT sha256 FROM attachments")

    number = await erasure.start(res, scope_of({"file": sha256}), "why", "ada")
    await erasure.run(res, number)
    await pass_time(database, res)

    assert not await is_there(res, kept.key)
    assert await database.fetchval("SELECT count(*) FROM reconciliation_findings WHERE key <> 'other'") == 0


async def test_an_email_goes_with_a_finding_that_holds_a_nul(
    res: Resources, database: asyncpg.Connection
) -> None:
    kept = await set_aside(res, database, is_recorded=True)

    await erase(res, await database.fetchval("SELECT id FROM incoming_emails"))
    await pass_time(database, res)

    assert not await is_there(res, kept.key)
    assert await database.fetchval("SELECT count(*) FROM reconciliation_findings") == 0
