"""The audit of a drill's sync finds each single change in the collection, at the receiver and in Postgres."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pymongo import AsyncMongoClient

from service.local.drill.ledger import Injection, Ledger, Webhook
from service.local.drill.sync_audit import audit_sync
from service.local.drill.verdict import AuditResult, verdict
from service.postgres.engine import close_engine, create_engine, run
from service.targets.document import Document, make_document, read_records, to_json
from service.targets.mongodb import open_collection
from service.targets.webhook import message_id

NOON = datetime(2025, 11, 3, 12, 0, 0, 123_456, tzinfo=UTC)
HEADINGS = ("lost", "doubled", "wrong_bytes", "broken")
REFUSED = "103"


@dataclass
class World:
    """Three e-mails in both targets, the third refused by the receiver; all agree until a test tampers with them."""

    collection: Any
    collection_url: str | None
    messages: Path
    ledger: Ledger
    lines: list[dict[str, Any]] = field(default_factory=list)  # of the receiver's file

    def data(self, index: int = 0) -> dict[str, Any]:
        data: dict[str, Any] = self.lines[index]["body"]["data"]
        return data

    def repeat(self, message: str | None = None, **changes: object) -> None:
        """Append the first message again, under another id or with changes if given."""
        body = json.loads(json.dumps(self.lines[0]["body"]))
        body["data"].update(changes)
        self.lines.append({"id": message or self.lines[0]["id"], "body": body, "refused": None})

    def overtake(self) -> None:
        """Append the newest version under the id of an earlier one: the receiver drops it as a repetition."""
        self.repeat()
        self.data().update(version=3)

    def refuse(self, reason: str) -> None:
        self.lines.append({"id": "x", "body": None, "refused": reason})


async def _record(database: asyncpg.Connection, ticket: str, version: int) -> None:
    code = "document_refused" if ticket == REFUSED else None
    email_id = await database.fetchval(
        "INSERT INTO incoming_emails (idempotency_key, zendesk_ticket_id, raw_body, received_at, started_at,"
        " completed_at, processing_status, attempt_number, subject, sync_status, sync_error_code, sync_error,"
        " sync_retry_count, sync_attempt_number, synced_at)"
        " VALUES ($1, $2, '', $3, $3, $4, 'completed', $5, 'Grüße', $6, $7, $7, 1, 2, $8) RETURNING id",
        f"key-{ticket}",
        ticket,
        NOON,
        NOON + timedelta(seconds=1),
        version,
        "failed" if code else "synced",
        code,
        None if code else NOON + timedelta(seconds=4),
    )
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
        " VALUES ($1, 0, 'http://zendesk/file', 'stored', 'ab', 2, 'sha256/ab')",
        email_id,
    )


async def _documents(database_url: str) -> list[Document]:
    """Make the documents as the sync does, links included."""
    engine = create_engine(database_url, pool_size=1, seconds=30)
    records = await run(engine, 30, partial(read_records, email_ids=[1, 2, 3]))
    await close_engine(engine)
    link = ("https://holdfast.acme.example/file", None)
    return [make_document(record, {0: link}) for record in records.values()]


@pytest.fixture
async def world(
    mongodb_server: str, database: asyncpg.Connection, database_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    for ticket, version in (("101", 4), ("102", 1), (REFUSED, 1)):
        await _record(database, ticket, version)
    url = f"{mongodb_server}/holdfast.emails"
    client: AsyncMongoClient[dict[str, Any]]
    client = await asyncio.to_thread(lambda: AsyncMongoClient(mongodb_server, tz_aware=True))
    await client.holdfast.emails.drop()
    ledger = Ledger(
        {
            ticket: Webhook(
                ticket, "letter", b"", sync_code="document_refused" if ticket == REFUSED else None
            )
            for ticket in ("101", "102", REFUSED)
        }
    )
    world = World(client.holdfast.emails, url, tmp_path / "messages", ledger)
    target = await asyncio.to_thread(lambda: open_collection(url, 30, pool_size=1))
    for document in await _documents(database_url):
        await target.write(document)
        if document.content["ticket_id"] != REFUSED:
            body = {"data": json.loads(to_json({"id": document.key, **document.content}))}
            world.lines.append({"id": message_id(document), "body": body, "refused": None})
    await target.close()
    yield world
    await client.close()


async def _audit(world: World, database_url: str, tail: str = "") -> AuditResult:
    text = "".join(f"{json.dumps(line)}\n" for line in world.lines) + tail
    await asyncio.to_thread(world.messages.write_text, text)
    result = AuditResult()
    await audit_sync(result, world.ledger, database_url, world.collection_url, world.messages)
    return result


def _headings(result: AuditResult) -> dict[str, list[str]]:
    return {heading: lines for heading in HEADINGS if (lines := getattr(result, heading))}


async def test_a_correct_sync_has_no_problems(world: World, database_url: str) -> None:
    world.ledger.injections += [
        Injection("target.away", NOON.timestamp(), NOON.timestamp() + 0.5),
        Injection("target.kill", NOON.timestamp() - 9, NOON.timestamp() - 8, had_effect=False),
        Injection("redis.away", NOON.timestamp(), NOON.timestamp() + 0.5),
    ]
    result = await _audit(world, database_url)

    assert _headings(result) == {}
    assert (result.documents, result.received, result.messages) == (3, 2, 2)
    assert result.synced == {"synced": 2, "failed": 1}
    assert result.sync_failed == {"document_refused": 1}
    assert result.longest_sync == 3
    assert result.sync_recoveries == {"target.away": 3.5}
    assert result.waits == {True: (3, 1.0)}


async def test_repetitions_wrong_clocks_and_half_a_line_are_no_problems(
    world: World, database_url: str
) -> None:
    """A message may come twice, a worker's clock may be wrong, and the receiver may be killed while it writes."""
    world.repeat()
    world.refuse("Message timestamp too new")
    world.ledger.injections.append(Injection("clock.skew", 0))
    result = await _audit(world, database_url, tail='{"id": "key-101", "bo')

    assert _headings(result) == {}
    assert (result.received, result.messages) == (2, 3)


async def test_without_a_collection_the_receiver_is_audited(world: World, database_url: str) -> None:
    world.collection_url = None
    world.lines.pop()
    result = await _audit(world, database_url)

    assert result.documents is None
    assert _headings(result) == {"lost": ["e-mail 2 is not at the receiver"]}


def _email(change: str, ticket: str = "101") -> str:
    return f"UPDATE incoming_emails SET {change} WHERE zendesk_ticket_id = '{ticket}'"


Tamper = str | Callable[[World], Awaitable[object] | None]
ONE = {"_id": "key-101"}

TAMPERINGS: Mapping[str, tuple[Tamper, str, str]] = {
    # the collection
    "a document removed": (
        lambda world: world.collection.delete_one(ONE),
        "lost",
        "e-mail 1 is not in the collection",
    ),
    "a document with another subject": (
        lambda world: world.collection.update_one(ONE, {"$set": {"subject": "Gruesse"}}),
        "wrong_bytes",
        "e-mail 1 is in the collection with another content than in Postgres",
    ),
    "a document with a time that is off by a millisecond": (
        lambda world: world.collection.update_one(
            ONE, {"$set": {"completed_at": NOON + timedelta(milliseconds=1_001)}}
        ),
        "wrong_bytes",
        "e-mail 1 is in the collection with another content",
    ),
    "a document with another file": (
        lambda world: world.collection.update_one(ONE, {"$set": {"attachments.0.sha256": "cd"}}),
        "wrong_bytes",
        "e-mail 1 is in the collection with another content",
    ),
    "a document with a field more": (
        lambda world: world.collection.update_one(ONE, {"$set": {"more": 1}}),
        "wrong_bytes",
        "e-mail 1 is in the collection with another content",
    ),
    "a document of an earlier version": (
        lambda world: world.collection.update_one(ONE, {"$set": {"version": 3}}),
        "wrong_bytes",
        "e-mail 1 is in the collection with version 3, not 4",
    ),
    "a document more": (
        lambda world: world.collection.insert_one({"_id": "stranger"}),
        "broken",
        "'stranger' is in the collection, and is no e-mail",
    ),
    "a document twice": (
        lambda world: world.collection.insert_one({"_id": "other", "email_id": 1}),
        "doubled",
        "e-mail 1 is in the collection as 'other', too",
    ),
    "the document of the e-mail that the other target refused removed": (
        lambda world: world.collection.delete_one({"_id": "key-103"}),
        "lost",
        "e-mail 3 is not in the collection",
    ),
    # the receiver
    "a message missing": (
        lambda world: world.lines.clear(),
        "lost",
        "e-mail 1 is not at the receiver",
    ),
    "a message that says something else": (
        lambda world: world.data().update(subject="Gruesse"),
        "wrong_bytes",
        "e-mail 1 is at the receiver with another content",
    ),
    "a message of an earlier version": (
        lambda world: world.data().update(version=3),
        "wrong_bytes",
        "e-mail 1 is at the receiver with version 3, not 4",
    ),
    "the same message under two ids": (
        lambda world: world.repeat("another"),
        "doubled",
        "e-mail 1 was posted as 'another', too",
    ),
    "a later version under the id of an earlier one": (
        lambda world: world.overtake(),
        "wrong_bytes",
        "e-mail 1 is at the receiver with version 3, not 4",
    ),
    "a repetition that says something else": (
        lambda world: world.repeat(subject="Gruesse"),
        "wrong_bytes",
        "the message 'key-101' came twice with different contents",
    ),
    "a message without an e-mail": (
        lambda world: world.repeat("stranger", id="stranger"),
        "broken",
        "the receiver has 'stranger', which it must not have",
    ),
    "a message that had to be refused": (
        lambda world: world.repeat("key-103", id="key-103"),
        "broken",
        "the receiver has 'key-103', which it must not have",
    ),
    "a bad signature": (
        lambda world: world.refuse("No matching signature found"),
        "broken",
        "the receiver refused 'x': No matching signature found",
    ),
    "a wrong time, though all clocks are right": (
        lambda world: world.refuse("Message timestamp too old"),
        "broken",
        "the receiver refused 'x': Message timestamp too old",
    ),
    # the states
    "never synced": (
        _email("sync_status = 'pending', synced_at = NULL"),
        "broken",
        r"e-mail 1: its sync is pending, no error .* it had to end with no error",
    ),
    "not applicable": (
        _email("sync_status = 'not_applicable', synced_at = NULL"),
        "broken",
        "e-mail 1: its sync is not_applicable",
    ),
    "given up": (
        _email(
            "sync_status = 'failed', sync_error_code = 'receiver_away', sync_error = 'x', synced_at = NULL"
        ),
        "broken",
        "e-mail 1: its sync is failed, receiver_away .x. after 2 attempts; it had to end with no error",
    ),
    "synced with an error": (
        _email("sync_error = 'x'"),
        "broken",
        "e-mail 1: its sync is synced, with the error x",
    ),
    "refused, but marked as synced": (
        _email(
            "sync_status = 'synced', sync_error_code = NULL, sync_error = NULL, synced_at = now()", REFUSED
        ),
        "broken",
        "e-mail 3: its sync is synced, no error .* it had to end with document_refused",
    ),
    "refused with another code": (
        _email("sync_error_code = 'receiver_busy'", REFUSED),
        "broken",
        "e-mail 3: its sync is failed, receiver_busy",
    ),
    "refused without a message": (
        _email("sync_error = NULL", REFUSED),
        "broken",
        "e-mail 3: its sync is failed, with the error None",
    ),
    "synced without a time": (
        _email("synced_at = NULL"),
        "broken",
        "e-mail 1: its sync is synced, and it was synced at None",
    ),
    "synced before it was completed": (
        _email("synced_at = received_at"),
        "broken",
        "e-mail 1: it was synced at .* and completed only at",
    ),
    "as many retries as attempts": (
        _email("sync_retry_count = 2"),
        "broken",
        "e-mail 1: its sync has 2 retries, in 2 attempts",
    ),
}


@pytest.mark.parametrize(("tamper", "heading", "text"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
async def test_each_change_is_found_under_its_heading(
    tamper: Tamper, heading: str, text: str, world: World, database: asyncpg.Connection, database_url: str
) -> None:
    if isinstance(tamper, str):
        await database.execute(tamper)
    elif (done := tamper(world)) is not None:
        await done
    result = await _audit(world, database_url)

    found = _headings(result)
    assert not result.good
    assert list(found) == [heading], found
    assert any(re.search(text, line) for line in found[heading]), found


def test_a_verdict_has_a_row_for_the_sync() -> None:
    result = AuditResult(documents=7, received=6, messages=9, longest_sync=4.21)
    result.synced.update({"synced": 6, "failed": 1})
    result.sync_failed.update({"document_refused": 1})
    result.sync_recoveries = {"target.kill": 1.0, "target.away": 2.04}
    result.waits = {True: (3, 0.2), False: (4, 0.1)}
    lines = verdict("60 s", Ledger(), result, 1.5, 1000).text.plain.splitlines()

    assert "  synced            6; the slowest 4.2 s after its job had ended" in lines
    assert "  sync failed       1: document_refused 1" in lines
    assert "  equal documents   7 in the collection; 6 at the receiver, in 9 messages" in lines
    assert "  sync's recovery   a new e-mail was in the targets 2.0 s after target.away" in lines
    assert (
        "  e-mails meanwhile 3 were completed in 0.20 s (median) while a target was away,"
        " 4 were completed in 0.10 s (median) otherwise"
    ) in lines


def test_a_verdict_says_that_there_was_no_collection() -> None:
    result = AuditResult(received=6, messages=6)
    result.synced.update({"synced": 6})
    lines = verdict("60 s", Ledger(), result, 1.5, 1000).text.plain.splitlines()

    assert "  equal documents   no collection; 6 at the receiver, in 6 messages" in lines
