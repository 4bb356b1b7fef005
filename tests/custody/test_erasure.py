"""Erasure: any order of webhooks, back-fills, look-ups, replays and erasures leaves nothing of what was erased, and all else."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.backfill.record import Held
from service.backfill.suspended import _see
from service.capture.attempt import process
from service.config.settings import Settings
from service.custody import erasure, tombstone_copies, zendesk_deletions
from service.custody.holds import HoldOrder, release_hold, set_hold
from service.custody.mentions import Mentions
from service.custody.scopes import scope_of
from service.errors import Permanent, Rejected
from service.jobs.arrival import Arrival, receive
from service.jobs.identity import identify
from service.local.zendesk.audits import Listings
from service.local.zendesk.sender import sign_headers
from service.local.zendesk.stand_in import Zendesk
from service.operate.correct import correct
from service.operate.replay import replay_webhook
from service.postgres.engine import connect
from service.postgres.selection import LastingFilter
from service.queries.erasures import get_erasure
from service.resources import Resources
from service.storage.objects import put
from service.storage.spool import object_key
from tests.conftest import API_TOKEN, EMPTY, ROOT, Client, Server, environment, eventually
from tests.support import forked
from tests.support.backfill import make_due, search
from tests.support.commands import typed
from tests.support.erasing_emails import objects_with, tables_with
from tests.support.examples import examples
from tests.support.files import PDF
from tests.support.pages import asking, read, words_of
from tests.support.places import chunks
from tests.support.reconciling import compare
from tests.support.rows import add, add_quarantined_body

WRONG: dict[str, Any] = {"raw_headers": "[]", "error_code": "not_json", "error": "No."}
ADDRESSES = ("ann@customer.example", "bob@customer.example")
FEW = hypothesis.settings(
    max_examples=examples(8),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a failure costs minutes to shrink
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
OPERATIONS = st.tuples(
    st.sampled_from(
        [
            *("announced", "told", "withheld", "fresh", "garbage"),
            *("erase_sender", "erase_ticket", "erase_email"),
            *("search", "work", "repeat", "replay", "identify"),
        ]
    ),
    st.integers(1, 2),
    st.sampled_from(ADDRESSES),
)


@pytest.fixture
def settings(settings: Settings, zendesk: Zendesk) -> Settings:
    zendesk.state.listings.hidden_seconds = 0
    return settings.model_copy(update={"backfill_minutes": 5})


@dataclass(frozen=True)
class Sent:
    """An e-mail at Zendesk, and a word that only it contains."""

    ticket: int
    comment_id: int
    address: str
    word: str


class World:
    """A Zendesk, a Holdfast, and what must be on record."""

    def __init__(
        self, res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
    ) -> None:
        self.res, self.client, self.zendesk, self.database = res, client, zendesk, database
        self.emails: dict[int, Sent] = {}
        self.erased: set[int] = set()
        self.gone_words: set[str] = set()
        self.tickets: set[int] = set()
        self.requests: list[tuple[bytes, dict[str, Any]]] = []
        self.garbage = 0

    async def empty(self) -> None:
        await self.database.execute(EMPTY)
        state = self.zendesk.state
        state.listings = Listings(hidden_seconds=0, names_messages=True)
        for held in (state.comments, state.tickets, state.originals, state.api_faults):
            held.clear()

    async def do(self, what: str, ticket: int, address: str) -> None:
        if what in {"announced", "told", "withheld", "fresh"}:
            await self.add(what, ticket, address)
        elif what.startswith("erase_"):
            await self.erase(what.removeprefix("erase_"), ticket, address)
        elif what == "garbage":
            self.garbage += 1
            body = f'{{"broken {self.garbage}", "from": "{address}", "secret": "garbage-{self.garbage}-end"'
            await self.send(body.encode())
        elif what == "repeat":
            await self.repeat()
        elif what == "replay":
            await self.replay()
        elif what == "search":
            await make_due(self.database)
            await search(self.res, self.database, self.zendesk)
        elif what == "work":
            await self.work()
        else:
            await self.res.run(lambda conn: identify(conn, 0, 100))

    async def add(self, what: str, ticket: int, address: str) -> None:
        word = f"word-{uuid4().hex}"
        now = datetime.now(UTC).replace(microsecond=0)
        made_at = now + timedelta(minutes=1) if what == "fresh" else now - timedelta(minutes=30)
        comment_id = self.zendesk.add_email(ticket, from_address=address, text=word, created_at=made_at)
        self.emails[comment_id] = Sent(ticket, comment_id, address, word)
        if ticket in self.tickets and what != "fresh":
            # Older than the erasure of its ticket: what a webhook says of it stays until the look-up.
            self.erased.add(comment_id)
        if what == "told":
            told = {"from_email": address, "body_text": word}
            await self.send(json.dumps(self.zendesk.announcement(ticket, comment_id, **told)).encode())
        elif what != "withheld":
            await self.send(json.dumps(self.zendesk.announcement(ticket, comment_id)).encode())

    async def send(self, body: bytes, headers: dict[str, Any] | None = None) -> None:
        if headers is None:
            headers = dict(sign_headers(body, self.zendesk.secret))
            self.requests.append((body, headers))
        answer = await self.zendesk.send(self.client.webhook, body, headers=headers)
        assert answer.status == 200

    async def repeat(self) -> None:
        """Send all requests again: as they were, and under new signatures."""
        for body, headers in list(self.requests):
            await self.send(body, headers)
            answer = await self.zendesk.send(self.client.webhook, body)
            assert answer.status == 200

    async def replay(self) -> None:
        for row in await self.database.fetch("SELECT id FROM quarantined_webhooks"):
            with pytest.raises(Rejected):
                await replay_webhook(self.res, row["id"], "ann")

    async def erase(self, kind: str, ticket: int, address: str) -> None:
        subject: str | int = address if kind == "sender" else ticket
        rows = await self.database.fetch(
            "SELECT id, zendesk_ticket_id, comment_id, from_email FROM incoming_emails ORDER BY id"
        )
        if kind == "email":
            if not rows:
                return
            subject = rows[0]["id"]
        chosen = {
            int(row["comment_id"])
            for row in rows
            if subject in (row["id"] if kind == "email" else None, row["from_email"])
            or (kind == "ticket" and row["zendesk_ticket_id"] == str(ticket))
        }
        scope = scope_of({kind: subject})
        if (await erasure.plan(self.res, scope)).is_empty:
            assert not chosen
            return
        erasure_id = await erasure.start(self.res, scope, "asked for", "ann")
        assert (await erasure.run(self.res, erasure_id)).status == "done"
        self.erased |= chosen
        if kind == "ticket" and chosen:
            self.tickets.add(ticket)
            now = datetime.now(UTC)
            self.erased |= {
                each.comment_id
                for each in self.emails.values()
                if each.ticket == ticket and self.made_at(each) <= now
            }
        for comment_id in chosen:
            assert await tables_with(self.database, self.emails[comment_id].word) == []
        if kind == "sender":
            bodies = await self.database.fetch("SELECT raw_body FROM quarantined_webhooks")
            assert [row for row in bodies if address.encode() in row["raw_body"]] == []

    def made_at(self, email: Sent) -> datetime:
        comments = self.zendesk.state.comments[str(email.ticket)]
        [made_at] = [each["created_at"] for each in comments if each["id"] == email.comment_id]
        return datetime.fromisoformat(str(made_at))

    async def work(self) -> None:
        """Run one attempt of each job that waits."""
        rows = await self.database.fetch(
            "SELECT id, attempt_number FROM incoming_emails WHERE processing_status IN ('received', 'queued')"
        )
        for row in rows:
            await process(self.res, row["id"], row["attempt_number"] + 1)

    async def end(self) -> None:
        """Bring all back that can come back, and compare."""
        for _ in range(2):
            await self.repeat()
            await make_due(self.database)
            await search(self.res, self.database, self.zendesk)
            await self.work()
            await self.res.run(lambda conn: identify(conn, 0, 100))


async def check(world: World, settings: Settings) -> None:
    rows = await world.database.fetch("SELECT comment_id FROM incoming_emails")
    expected = sorted(str(each) for each in world.emails.keys() - world.erased)
    assert sorted(row["comment_id"] for row in rows) == expected
    listed = await world.database.fetch("SELECT comment_id FROM source_emails")
    assert not {int(row["comment_id"]) for row in listed} & world.erased
    waiting = {row["key"] for row in await world.database.fetch("SELECT key FROM objects_to_remove")}
    for comment_id in world.erased:
        word = world.emails[comment_id].word
        assert await tables_with(world.database, word) == []
        assert await asyncio.to_thread(objects_with, settings.storage_url or "", word) <= waiting


@pytest.mark.timeout(300)
@FEW
@example(operations=[*(("announced", 1, ADDRESSES[0]),) * 3, ("erase_ticket", 1, ADDRESSES[0])])
@example(
    operations=[
        *(("told", 1, ADDRESSES[1]), ("fresh", 2, ADDRESSES[1]), ("work", 2, ADDRESSES[0])),
        *(("erase_ticket", 2, ADDRESSES[1]), ("announced", 2, ADDRESSES[1]), ("announced", 1, ADDRESSES[0])),
        *(("erase_email", 2, ADDRESSES[0]), ("search", 2, ADDRESSES[0])),
    ]
)
@given(operations=st.lists(OPERATIONS, min_size=4, max_size=20))
async def test_nothing_erased_returns_and_all_else_stays(
    res: Resources,
    client: Client,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    settings: Settings,
    operations: Sequence[tuple[str, int, str]],
) -> None:
    world = World(res, client, zendesk, database)
    await world.empty()

    for what, ticket, address in operations:
        await world.do(what, ticket, address)
    await world.end()

    await check(world, settings)


async def erased(res: Resources, **scope: str | int) -> None:
    erasure_id = await erasure.start(res, scope_of(dict(scope)), "asked for", "ann")
    assert (await erasure.run(res, erasure_id)).status == "done"


async def code_of(refused: Awaitable[object]) -> tuple[int, str]:
    with pytest.raises(Rejected) as error:
        await refused
    return error.value.status, error.value.code


async def test_a_file_is_erased_from_every_email_and_not_stored_again(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Its e-mails stay completed. A later e-mail with it completes, too."""
    world = World(res, client, zendesk, database)
    other = zendesk.add_file("b.pdf", b"%PDF-another")
    for ticket in (1, 2):
        url = zendesk.add_file("a.pdf", PDF)
        comment = zendesk.add_email(ticket, attachments=[url, other])
        await world.send(json.dumps(zendesk.announcement(ticket, comment)).encode())
    await world.work()
    sha256 = hashlib.sha256(PDF).hexdigest()
    await database.execute("UPDATE incoming_emails SET dismissed_attempt = attempt_number")

    await erased(res, file=sha256)
    assert await database.fetchval("SELECT bool_and(dismissed_attempt = attempt_number) FROM incoming_emails")
    comment = zendesk.add_email(3, attachments=[zendesk.add_file("again.pdf", PDF)])
    await world.send(json.dumps(zendesk.announcement(3, comment)).encode())
    await world.work()

    files = await database.fetch(
        "SELECT email_id, file_name, status, error_code, sha256 FROM attachments ORDER BY email_id, position"
    )
    gone = ("failed", "erased", None)
    kept = ("stored", None, hashlib.sha256(b"%PDF-another").hexdigest())
    assert [tuple(file)[1:] for file in files] == [
        *(("a.pdf", *gone), ("b.pdf", *kept)) * 2,
        ("again.pdf", *gone),
    ]
    statuses = await database.fetch("SELECT processing_status, error_code FROM incoming_emails")
    assert {tuple(row) for row in statuses} == {("completed", None)}
    assert await tables_with(database, sha256) == []
    assert await database.fetchval("SELECT key FROM objects_to_remove WHERE state = 'waiting'") == object_key(
        sha256
    )


@pytest.mark.parametrize("is_held", [False, True])
async def test_an_email_that_was_replayed_since_an_erasure_began_goes_with_its_webhook(
    res: Resources, database: asyncpg.Connection, *, is_held: bool
) -> None:
    """The erasure is about the webhook, which was on record; the e-mail has a corrected body, and no tombstone."""
    body = b'{"ticket_id": 4711, "subject": "%s", "from": "ann@customer.example"}'
    webhook_id = await add_quarantined_body(database, body % b"secret")
    other_id = await add_quarantined_body(database, b'{"ticket_id": 4712}', idempotency_key="other")
    erasure_id = await erasure.start(res, scope_of({"ticket": "4711"}), "asked for", "ann")
    await correct(res, webhook_id, "ann", body % b"corrected secret")
    other = await replay_webhook(res, other_id, "ann")
    if is_held:
        await set_hold(res, HoldOrder("audit", "An audit.", None, [1]), "ann")

    assert (await erasure.run(res, erasure_id)).status == "done"

    emails = {row["id"] for row in await database.fetch("SELECT id FROM incoming_emails")}
    webhooks = {row["id"] for row in await database.fetch("SELECT id FROM quarantined_webhooks")}
    assert emails == {other.number} | ({1} if is_held else set())
    assert webhooks == {other_id} | ({webhook_id} if is_held else set())
    if not is_held:
        assert await tables_with(database, "secret") == []


async def test_a_held_email_is_not_erased(res: Resources, database: asyncpg.Connection) -> None:
    """A hold that was set since the erasure began stops it until it is released."""
    email_id = await add(database, from_email="ann@customer.example", processing_status="completed")
    await set_hold(res, HoldOrder("audit", "An audit.", None, [email_id]), "ann")
    refused = await code_of(erasure.start(res, scope_of({"sender": "Ann@customer.example"}), "why", "ann"))
    await release_hold(res, "audit", "ann", "Over.")

    erasure_id = await erasure.start(res, scope_of({"sender": "Ann@customer.example"}), "why", "ann")
    await set_hold(res, HoldOrder("audit-2", "An audit.", None, [email_id]), "ann")
    stopped = await erasure.run(res, erasure_id)
    held = await database.fetchval("SELECT count(*) FROM incoming_emails")
    await release_hold(res, "audit-2", "ann", "Over.")
    await database.execute("UPDATE erasures SET next_at = now()")
    done = await erasure.run(res, erasure_id)

    assert refused == (409, "held")
    assert (stopped.status, stopped.held_by, held) == ("running", ["audit-2"], 1)
    assert done.status == "done"
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0


async def test_any_process_goes_on_where_a_killed_one_stopped(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Each step is cancelled once in its transaction, as by a kill, and then taken by another process."""
    for number in range(250):
        await add(
            database, zendesk_ticket_id="7", comment_id=str(9000 + number), raw_body=b"{}", raw_headers="[]"
        )
    await add(database, "quarantined_webhooks", idempotency_key="q", raw_body=b'{"ticket": "7"', **WRONG)
    stays = await add(
        database, "quarantined_webhooks", idempotency_key="r", raw_body=b'{"ticket": "77"', **WRONG
    )
    erasure_id = await erasure.start(res, scope_of({"ticket": "7"}), "why", "ann")

    phases = []
    while (row := await erasure.state_of(res, erasure_id)) and row.status == "running":
        phases.append(row.phase)
        before = await database.fetchval("SELECT count(*) FROM incoming_emails")
        task = asyncio.create_task(erasure.step(res, erasure_id))
        await asyncio.sleep(0.002 * (len(phases) % 4))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert before - await database.fetchval("SELECT count(*) FROM incoming_emails") in {0, 50, 100}
        await erasure.step(res, erasure_id)

    assert set(phases) >= {"emails", "quarantined", "wait"}
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0
    assert [row["id"] for row in await database.fetch("SELECT id FROM quarantined_webhooks")] == [stays]
    receipt = await database.fetchrow("SELECT * FROM receipts")
    assert receipt is not None
    assert (receipt["emails"], receipt["status"], len(receipt["digest"])) == (250, "done", 64)
    assert await database.fetchval("SELECT subject FROM erasures") is None


async def test_a_request_that_was_under_way_does_not_survive(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Its transaction began before the tombstones were there, and ends after the e-mails were deleted."""
    row = {
        "idempotency_key": "k",
        "zendesk_ticket_id": "7",
        "comment_id": "9001",
        "raw_body": b"{}",
        "raw_headers": [],
    }
    async with connect(res.engine) as conn:
        await receive(conn, [Arrival(row)])
    erasure_id = await erasure.start(res, scope_of({"ticket": "7"}), "why", "ann")
    async with connect(res.engine) as late:
        await late.execution_options(isolation_level="REPEATABLE READ")
        async with late.begin():
            await late.execute(text("SELECT count(*) FROM tombstones"))  # takes its snapshot
            running = asyncio.create_task(erasure.run(res, erasure_id))
            await eventually(partial(_phase_is, database, "wait"))
            assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0
            await receive(late, [Arrival(row)])
        await late.execution_options(isolation_level="AUTOCOMMIT")
    await running

    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0


async def test_the_address_is_forgotten_before_the_wait_for_older_transactions(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Such a transaction may run for weeks."""
    await add(database, from_email=ADDRESSES[0], processing_status="completed")
    erasure_id = await erasure.start(res, scope_of({"sender": ADDRESSES[0]}), "why", "ada")

    async with database.transaction():
        await database.execute("SELECT 1")
        running = asyncio.create_task(erasure.run(res, erasure_id))
        async with connect(res.engine) as conn:
            await eventually(partial(_is_waiting, conn))
            left = await conn.scalar(text("SELECT subject FROM erasures"))
    await running

    assert left is None


async def _is_waiting(conn: AsyncConnection) -> bool:
    return bool(await conn.scalar(text("SELECT transactions IS NOT NULL FROM erasures")))


async def test_an_erasure_that_postgres_refuses_says_why_and_lets_others_go_on(
    client: Server, res: Resources, database: asyncpg.Connection
) -> None:
    """A table of another system refers to its e-mail."""
    first = await add(database, from_email=ADDRESSES[0], processing_status="completed")
    await add(database, from_email=ADDRESSES[1], processing_status="completed")
    await database.execute("CREATE TABLE theirs (id bigint REFERENCES incoming_emails (id))")
    await database.execute("INSERT INTO theirs VALUES ($1)", first)
    try:
        refused, other = [
            await erasure.start(res, scope_of({"sender": address}), "why", "ada") for address in ADDRESSES
        ]
        with pytest.raises(Permanent):
            await erasure.step(res)
        done = await erasure.run(res, other)
        stopped = await erasure.state_of(res, refused)
        waits = await get_erasure(res.engine, refused)
        page = await read(client, f"/erasures/{refused}")
    finally:
        await database.execute("DROP TABLE theirs")
    await database.execute("UPDATE erasures SET next_at = now()")
    ended = await erasure.run(res, refused)

    assert (waits.status, waits.error_code) == ("running", "row_refused")
    assert "theirs" in str(waits.error)
    assert f"Postgres refused the last step: {waits.error}" in words_of(page)
    assert (await get_erasure(res.engine, refused)).error_code is None
    assert (done.status, stopped and stopped.status, ended.status) == ("done", "running", "done")
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0


async def _phase_is(database: asyncpg.Connection, phase: str) -> bool:
    return bool(await database.fetchval("SELECT phase = $1 FROM erasures", phase))


async def test_an_email_without_a_known_comment_is_recognised_by_its_sender(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The sender's other e-mail in the ticket stays."""
    world = World(res, client, zendesk, database)
    await world.add("told", 1, ADDRESSES[0])
    await world.work()
    word = f"word-{uuid4().hex}"
    zendesk.add_email(1, from_address=ADDRESSES[0], text=word)
    told = {"ticket_id": "1", "from_email": ADDRESSES[0], "body_text": word}
    await world.send(json.dumps(told).encode())
    last = await database.fetchval("SELECT max(id) FROM incoming_emails")

    await erased(res, email=last)
    await world.end()

    rows = await database.fetch("SELECT comment_id FROM incoming_emails")
    assert [int(row["comment_id"]) for row in rows] == list(world.emails)
    assert await tables_with(database, word) == []


@pytest.mark.parametrize(
    ("body", "is_found"),
    [
        (b'{"from": "ANN@customer.example"}', True),
        (b'{"from": "ann\\u0040customer.example"}', True),
        (b"from=ann%40customer.example&x=1", True),
        (b"<p>ann&#64;customer.example</p>", True),
        (b'{"from": "joann@customer.example"}', False),
        (b'{"from": "ann@customer.example.org"}', False),
        (b'{"ticket": {"id": 4711, "x"', True),
        (b'{"ticket_id": "47110", "priority": 4711', False),
        (b'{"comment": 14378110927249', True),
    ],
)
def test_a_body_mentions_what_it_names_in_any_form(body: bytes, is_found: bool) -> None:  # noqa: FBT001 a table
    mentions = Mentions("ann@customer.example", "4711", frozenset({"14378110927249"}))

    assert mentions.found_in(body) is is_found


async def test_the_api_plans_and_begins_an_erasure(client: Client, database: asyncpg.Connection) -> None:
    await add(database, from_email="ann@customer.example", raw_body=b"{}", processing_status="completed")
    headers = {"Authorization": f"Bearer {API_TOKEN}"}

    async def erase(**given: object) -> tuple[int, dict[str, Any]]:
        url = f"{client.url}/api/v1/erasures"
        async with client.session.post(url, json=given, headers=headers) as response:
            return response.status, await response.json()

    status, planned = await erase(sender="ANN@customer.example", dry_run=True)
    refused = [await erase(), await erase(ticket="1", reason="x"), await erase(sender="ann@customer.example")]
    begun = await erase(sender="ann@customer.example", reason="Asked for.")
    shown = await client.get(f"/api/v1/erasures/{begun[1]['erasure_id']}")

    assert (status, planned["plan"]["emails"], planned["plan"]["requests"]) == (200, 1, 1)
    assert [(status, problem["code"]) for status, problem in refused] == [
        (422, "erasure_scope"),
        (404, "nothing_to_erase"),
        (409, "reason_missing"),
    ]
    assert (begun[0], shown["status"], shown["reason"]) == (202, "running", "Asked for.")
    assert "ann@" not in json.dumps(shown)


async def test_a_copy_of_the_tombstones_erases_again_what_a_restore_brings_back(
    res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The restored database has no tombstones, and all that was erased."""
    world = World(res, client, zendesk, database)
    url = zendesk.add_file("a.pdf", PDF)
    await world.add("told", 1, ADDRESSES[0])
    comment = zendesk.add_email(2, attachments=[url], from_address=ADDRESSES[1])
    await world.send(json.dumps(zendesk.announcement(2, comment)).encode())
    await world.work()
    await database.execute(
        "CREATE TEMP TABLE email AS SELECT * FROM incoming_emails WHERE zendesk_ticket_id = '1'"
    )
    await database.execute("CREATE TEMP TABLE file AS SELECT * FROM attachments")
    await erased(res, ticket="1")
    await erased(res, file=hashlib.sha256(PDF).hexdigest())
    lines = [line async for line in tombstone_copies.copied(res)]
    await database.execute(
        "DELETE FROM tombstones; DELETE FROM erasure_salts; DELETE FROM attachments; DELETE FROM removed_emails"
    )
    await database.execute("INSERT INTO incoming_emails OVERRIDING SYSTEM VALUE SELECT * FROM email")
    await database.execute("INSERT INTO attachments SELECT * FROM file")

    broken = await code_of(tombstone_copies.restore(res, lines[:-1], "ann"))
    erasure_id = await tombstone_copies.restore(res, lines, "ann")
    done = await erasure.run(res, erasure_id)
    foreign = [json.dumps({**json.loads(lines[0]), "salt": "00" * 32}), *lines[1:]]

    assert broken == (422, "tombstones_wrong")
    assert await code_of(tombstone_copies.restore(res, foreign, "ann")) == (409, "tombstones_foreign")
    assert done.status == "done"
    rows = await database.fetch("SELECT zendesk_ticket_id FROM incoming_emails")
    assert [row["zendesk_ticket_id"] for row in rows] == ["2"]
    assert await tables_with(database, hashlib.sha256(PDF).hexdigest()) == []
    assert "ann@" not in "".join(lines)


async def test_suspended_emails_and_filters_are_erased(res: Resources, database: asyncpg.Connection) -> None:
    """A suspended e-mail that Zendesk still lists is not kept again."""
    key = object_key("0" * 64)
    row = {
        "record_sha256": "0" * 64,
        "record_key": key,
        "record_size": 1,
        "contents": ["0" * 64],
        "text": "Hi",
    }
    for number, address in enumerate(("Ann@customer.example", "bob@customer.example")):
        names = {"account": "a.example", "suspended_id": str(number), "from_address": address, "files": "[]"}
        await add(database, "suspended_emails", **names, **row)
    await add(
        database,
        "bulk_retries",
        actor="ann",
        filter='{"sender": "ANN@customer.example"}',
        per_second=1,
        planned=1,
        planned_capped=False,
    )
    wanted = LastingFilter(sender="ann@customer.example")
    await set_hold(res, HoldOrder("over", "Ask ann@customer.example.", wanted), "bob")
    await release_hold(res, "over", "bob", "Ann@customer.example won.")

    await erased(res, sender="ann@customer.example")
    held = Held("a.example", 1, None, datetime.now(UTC), hourly=True, fails=False, account_is_told=False)
    known = await res.run(partial(_see, held=held, ids=["0", "1", "2"]))

    left = await database.fetch("SELECT from_address FROM suspended_emails")
    assert [row["from_address"] for row in left] == ["bob@customer.example"]
    assert known == {"0", "1"}
    assert await tables_with(database, "nn@customer.example") == []


@pytest.mark.parametrize(("mode", "left"), [("ask", 4), ("hold", 4), ("erase", 2)])
async def test_a_setting_says_what_follows_when_zendesk_deletes(
    mode: str, left: int, res: Resources, database: asyncpg.Connection
) -> None:
    """Zendesk can restore what it deleted yesterday."""
    old, new = datetime.now(UTC) - timedelta(days=31), datetime.now(UTC) - timedelta(days=1)
    for state, at in (("permanently_deleted", new), ("deleted", old), ("deleted", new), (None, None)):
        await add(database, zendesk_state=state, zendesk_state_at=at, processing_status="completed")
    chosen = replace(res, settings=res.settings.model_copy(update={"zendesk_deletions": mode}))

    for _ in range(2):
        await zendesk_deletions.follow(chosen)
        for row in await database.fetch("SELECT id FROM erasures WHERE status = 'running'"):
            await erasure.run(res, row["id"])

    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == left
    assert await database.fetchval("SELECT count(*) FROM held_emails") == (3 if mode == "hold" else 0)
    assert await database.fetchval("SELECT count(*) FROM erasures") == (1 if mode == "erase" else 0)


async def test_an_erasure_says_how_many_objects_no_email_names(
    client: Server, settings: Settings, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    """After a restore, one of them may be an original of the person."""
    for address in ADDRESSES:
        await add(database, from_email=address, raw_body=b"{}", processing_status="completed")
    await erased(res, sender=ADDRESSES[0])
    before = await typed(settings, "erasures", "show", "1")
    earlier = await put(res.storage, chunks(b"an earlier original"), None)
    await asyncio.to_thread(os.utime, tmp_path / "objects" / earlier.key, (0, 0))
    for _ in range(2):
        await compare(res)
    after = await typed(settings, "erasures", "show", "1")
    shown = await client.get("/api/v1/erasures/1")
    page = words_of(await read(client, "/erasures/1"))

    assert before.stderr == ""
    assert "The storage has 1 object without an e-mail." in after.stderr
    assert shown["unclaimed"] == 1
    assert "Objects in the storage that no e-mail names: 1." in page
    await res.storage.remove(earlier.key)
    await compare(res)
    assert (await client.get("/api/v1/erasures/1"))["unclaimed"] == 0


async def test_ctrl_c_ends_the_command_and_says_that_the_erasure_goes_on(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, from_email=ADDRESSES[0], raw_body=b"{}", processing_status="completed")
    words = ("erase", "--sender", ADDRESSES[0], "--reason", "Asked for.", "--yes")

    async def is_waiting() -> bool:
        return await database.fetchval("SELECT transactions IS NOT NULL FROM erasures") is True

    async with database.transaction():  # an erasure waits for all transactions that ran when it began
        await database.fetchval("SELECT count(*) FROM incoming_emails")
        process = await forked.create_subprocess_exec(
            *(sys.executable, "-m", "service", *words),
            cwd=ROOT,
            env=environment(settings),
            stdout=PIPE,
            stderr=PIPE,
        )
        await eventually(is_waiting)
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
    done = await erasure.run(res, 1)

    assert process.returncode == 130
    assert said.decode() == "Erasure 1 is on record and goes on: `holdfast erasures show 1`.\n"
    assert done.status == "done"


async def test_a_command_and_a_page_erase_after_a_plan(
    client: Server, settings: Settings, database: asyncpg.Connection
) -> None:
    """The command waits for the end; the page begins, and no address names the sender."""
    for number in range(2):
        address = f"sender-{number}@customer.example"
        await add(database, from_email=address, raw_body=b"{}", processing_status="completed")
    form = {"kind": "sender", "subject": "sender-1@customer.example"}

    planned = await typed(settings, "erase", "--sender", "sender-0@customer.example", "--dry-run")
    left = await database.fetchval("SELECT count(*) FROM incoming_emails")
    options = ("--reason", "Asked for.", "--yes", "--json")
    done = await typed(settings, "erase", "--sender", "SENDER-0@customer.example", *options)
    async with asking(client, "/erasures/plan", form=form) as response:
        plan = await response.text()
    async with asking(client, "/erasures", form={**form, "reason": "Asked for."}) as response:
        begun = response
    async with asking(client, "/erasures/2") as response:
        shown = await response.text()
    async with asking(client, "/activity") as response:
        activity = await response.text()
    in_words = await typed(settings, "erasures", "show", "1")

    assert (planned.returncode, left) == (0, 2)
    assert (json.loads(done.stdout)["status"], json.loads(done.stdout)["emails"]) == ("done", 1)
    assert "Erase all e-mails of the sender sender-1@customer.example?" in plan
    assert (begun.status, begun.headers["Location"]) == (303, "/erasures/2?notice=erasure_begun")
    assert "Erasure 2" in shown
    assert '<a href="/erasures/2">erasure 2</a>' in activity
    assert "0 (0 bytes, with the messages)" in in_words.stdout
    assert "sender-1@" not in shown
