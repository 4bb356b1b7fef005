"""A process that dies before or after any statement of an erasure, a purge or a hold, and is followed by another one."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event

from service.config.settings import Settings
from service.custody import erasure
from service.custody.holds import HoldOrder, set_hold
from service.custody.purge import purge
from service.custody.scopes import scope_of
from service.errors import Rejected
from service.jobs import loose_objects
from service.postgres.selection import LastingFilter
from service.resources import Resources
from service.storage import objects
from service.storage.interface import ALL
from service.storage.objects import StoredObject
from tests.conftest import EMPTY
from tests.support.examples import examples
from tests.support.removing import add_finished, add_whole, remove_object_files
from tests.support.rows import add

ANN = "a@b.example"
# A usual run takes a few places of each act, HOLDFAST_EXAMPLES=40 takes all.
PLACES = 3
TABLES = {
    "incoming_emails": "id, processing_status, comment_id",
    "attachments": "email_id, position, status, sha256",
    "messages": "email_id, record_sha256",
    "attempts": "email_id, number",
    "announcements": "email_id, idempotency_key",
    "quarantined_webhooks": "idempotency_key",
    "suspended_emails": "suspended_id, from_address",
    "bulk_retries": "filter::text",
    "holds": "name, filter::text, reason",
    "held_emails": "email_id",
    # A number that a killed process drew is not drawn again.
    "operator_actions": "action, regexp_replace(subject, '[0-9]+', 'N'), reason",
    "removed_emails": "email_id, document_key, version, comment_id",
    "receipts": "kind, status, emails, files, bytes, held, objects, objects_removed, digest, rules::text",
    "receipt_entries": "entry",
    "objects_to_remove": "key, state, reason",
    "loose_objects": "key",
    "erasures": "scope, subject, status, phase, webhooks, suspended",
    "tombstones": "until IS NULL",
    "reconciliation_findings": "kind, key",
}


class Killed(BaseException):
    """The process died."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"retention_floor_days": 0, "purge_per_second": 100_000})


@contextmanager
def killing(res: Resources, when: str, place: int) -> Iterator[list[str]]:
    """Kill the process before or after the statement at this place; a connection loses what it did not commit."""
    seen: list[str] = []

    def reach(*about: Any) -> None:
        seen.append(str(about[2]))
        if len(seen) == place:
            raise Killed

    engine = res.engine.sync_engine
    event.listen(engine, f"{when}_cursor_execute", reach)
    try:
        yield seen
    finally:
        event.remove(engine, f"{when}_cursor_execute", reach)


async def put(res: Resources, content: bytes, email_id: int | None) -> StoredObject:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return await loose_objects.put(res, chunks(), None, email_id)


async def make_world(res: Resources, database: asyncpg.Connection) -> None:
    """Make e-mails with everything, of which two share a file, and one that a killed worker left."""
    await database.execute(EMPTY)
    await objects.check(res.storage)
    for each in [each async for each in objects.listing(res.storage, ALL)]:
        await objects.remove(res.storage, each.key)
    for name in ("first", "second"):
        await add_whole(database, name)
    other = await add_finished(
        database, from_email="c@d.example", zendesk_ticket_id="5", idempotency_key="other"
    )
    running = await add_finished(
        database, processing_status="processing", attempt_number=1, comment_id="", idempotency_key="running"
    )
    shared = await put(res, b"shared", None)
    for email_id, position in ((1, 1), (other, 0)):
        about = {"sha256": shared.sha256, "size": 6, "object_key": shared.key, "status": "stored"}
        await add(database, "attachments", email_id=email_id, position=position, source_url="", **about)
    await put(res, b"left by a killed worker", running)
    wrong = {"raw_headers": "[]", "error_code": "not_json", "error": "No."}
    body = json.dumps({"from": ANN}).encode()
    await add(database, "quarantined_webhooks", idempotency_key="mentions", raw_body=body, **wrong)
    planned = {"actor": "ada", "per_second": 1, "planned": 1, "planned_capped": False}
    await add(database, "bulk_retries", filter=json.dumps({"sender": ANN}), **planned)
    await database.execute("UPDATE incoming_emails SET completed_at = now() - interval '9 days'")
    rule = {"position": 0, "name": "rule", "filter": json.dumps({"sender": ANN}), "keep_days": 1}
    await add(database, "retention_rules", **rule, created_by="tests")


async def erase(res: Resources, database: asyncpg.Connection) -> None:
    """Erase a sender; a person who repeats the command finds the erasure that was begun."""
    number = await database.fetchval("SELECT id FROM erasures")
    if number is None:
        number = await erasure.start(res, scope_of({"sender": ANN}), "Asked for.", "ada")
    await database.execute("UPDATE erasures SET next_at = now()")
    await erasure.run(res, number)


async def purge_all(res: Resources, database: asyncpg.Connection) -> None:
    await database.execute("UPDATE receipts SET lease_until = now()")
    await purge(res, "tests")


async def hold(res: Resources, _: asyncpg.Connection) -> None:
    with suppress(Rejected):  # it is set
        await set_hold(res, HoldOrder("audit", "An audit.", LastingFilter(sender=ANN), [1, 2]), "ada")


async def end_state(res: Resources, database: asyncpg.Connection) -> dict[str, list[str]]:
    """Let the remover end its work; return what is on record and in the storage, without times and salts."""
    await database.execute("UPDATE loose_objects SET due_at = now()")
    await remove_object_files(res, database)
    state = {"storage": sorted([each.key async for each in objects.listing(res.storage, ALL)])}
    for table, columns in TABLES.items():
        rows = await database.fetch(f"SELECT {columns} FROM {table}")
        state[table] = sorted(str(tuple(row)) for row in rows)
    return state


Act = Callable[[Resources, asyncpg.Connection], Awaitable[None]]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("act", [erase, purge_all, hold])
async def test_a_process_may_die_at_any_statement(
    res: Resources, database: asyncpg.Connection, act: Act
) -> None:
    await make_world(res, database)
    with killing(res, "before", -1) as statements:
        await act(res, database)
    expected = await end_state(res, database)
    number = len(statements)
    every = max(1, number // examples(PLACES))

    for place in range(1, number + 1, every):
        for when in ("before", "after"):
            await make_world(res, database)
            with killing(res, when, place), pytest.raises(Killed):
                await act(res, database)
            await act(res, database)
            assert await end_state(res, database) == expected, (when, place, statements[place - 1])
