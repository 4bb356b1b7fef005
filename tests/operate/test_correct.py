"""A corrected webhook becomes one e-mail; the original stays on record, and so does who corrected it."""

import asyncio
import hashlib
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from service import intake
from service.custody.removal import remove
from service.errors import Rejected
from service.jobs import bulk_retries
from service.jobs.identity import merge
from service.operate import bulk_retry, bulk_webhooks
from service.operate.correct import correct
from service.operate.replay import replay_webhook
from service.postgres.engine import connect, transaction
from service.postgres.selection import WebhookSelection, WebhookTask
from service.queries import webhooks
from service.queries.retries import get_retry
from service.resources import Resources
from tests.conftest import eventually
from tests.support.retries import all_steps
from tests.support.rows import add, add_quarantined, add_quarantined_body, locked

BROKEN = b'{"ticket_id": 4711, "subject": "He said "no""}'
CORRECTED = b'{"ticket_id": 4711, "subject": "He said \\"no\\""}'
ORIGINAL = b'{"ticket_id": 4711, "subject": "The original"}'
ADA, BEN = "ada (tests)", "ben (tests)"


@pytest.fixture
async def webhook_id(database: asyncpg.Connection) -> int:
    return await add_quarantined_body(database, BROKEN, signature_hash=b"s" * 32)


async def waiting(database: asyncpg.Connection, number: int) -> bool:
    """Say whether that many connections wait for a lock."""
    return bool(
        await database.fetchval("SELECT count(DISTINCT pid) = $1 FROM pg_locks WHERE NOT granted", number)
    )


async def emails(database: asyncpg.Connection) -> list[asyncpg.Record]:
    return [*await database.fetch("SELECT * FROM incoming_emails ORDER BY id")]


async def test_a_correction_makes_an_email_and_keeps_the_original(
    res: Resources, database: asyncpg.Connection, webhook_id: int
) -> None:
    result = await correct(res, webhook_id, ADA, CORRECTED)

    (email,) = await emails(database)
    kept = await database.fetchrow("SELECT * FROM quarantined_webhooks")
    found = await webhooks.get_quarantined(res.engine, webhook_id)
    (about,) = await webhooks.webhooks_of(res.engine, email["id"])
    act = await database.fetchrow("SELECT actor, action, email_id, reason FROM operator_actions")
    assert (result.status, result.number) == ("accepted", email["id"])
    assert (email["subject"], bytes(email["raw_body"])) == ('He said "no"', CORRECTED)
    assert email["signature_hash"] is None, "nobody signed this body"
    assert (bytes(kept["raw_body"]), kept["email_id"]) == (BROKEN, email["id"])
    (correction,) = found.corrections
    hashes = [hashlib.sha256(body).hexdigest() for body in (BROKEN, CORRECTED)]
    assert [correction.original_sha256, correction.sha256] == hashes
    assert (correction.by, correction.body, correction.error_code) == (ADA, CORRECTED.decode(), None)
    assert tuple(act)[:3] == (ADA, "correct", email["id"])
    assert all(each in act["reason"] for each in hashes)
    assert (about.corrected_by, about.email_id, about.has_same_key) == (ADA, email["id"], False)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (BROKEN, 409, "not_json"),
        (b"{", 409, "not_json"),
        (b'{"subject": "x"}', 409, "no_ticket"),
        (b"x" * (1024**2 + 1), 413, "too_large"),
    ],
)
async def test_a_body_that_still_is_no_email_is_refused_and_not_kept(
    res: Resources, database: asyncpg.Connection, webhook_id: int, body: bytes, status: int, code: str
) -> None:
    with pytest.raises(Rejected) as refused:
        await correct(res, webhook_id, ADA, body)

    assert (refused.value.status, refused.value.code) == (status, code)
    assert await database.fetchval("SELECT count(*) FROM quarantine_corrections") == 0
    assert await emails(database) == []


async def test_concurrent_corrections_make_one_email(
    res: Resources, database: asyncpg.Connection, webhook_id: int
) -> None:
    other = CORRECTED.replace(b"no", b"yes")
    people = [(ADA, CORRECTED), (BEN, other), (ADA, CORRECTED), (BEN, other)]
    results = await asyncio.gather(
        *(correct(res, webhook_id, actor, body) for actor, body in people), return_exceptions=True
    )

    assert len(await emails(database)) == 1
    refused = [each.code for each in results if isinstance(each, Rejected)]
    assert len(refused) < len(people)
    assert set(refused) <= {"already_corrected", "already_replayed"}
    assert all(isinstance(each, Rejected | intake.IntakeResult) for each in results)


@pytest.fixture
async def parsed_id(database: asyncpg.Connection) -> int:
    """Keep a webhook whose original can be parsed, too; return its id."""
    return await add_quarantined_body(database, ORIGINAL, error_code="key_reused", signature_hash=b"s" * 32)


async def test_a_correction_after_the_choice_of_a_replay_is_refused(
    res: Resources, database: asyncpg.Connection, database_url: str, parsed_id: int
) -> None:
    """The replay has read the original, and waits to record it: then the correction comes."""
    async with locked(database_url) as holder:
        replayed = asyncio.create_task(replay_webhook(res, parsed_id, BEN))
        await eventually(partial(waiting, holder, 1))
        corrected = asyncio.create_task(correct(res, parsed_id, ADA, CORRECTED))
        await eventually(partial(waiting, holder, 2))
    results = await asyncio.gather(replayed, corrected, return_exceptions=True)

    (email,) = await emails(database)
    assert bytes(email["raw_body"]) == ORIGINAL
    assert results[0] == intake.IntakeResult("accepted", email["id"])
    assert isinstance(results[1], Rejected)
    assert results[1].code == "already_replayed"
    assert await database.fetchval("SELECT count(*) FROM quarantine_corrections") == 0


async def test_a_replay_after_the_choice_of_a_correction_follows_it(
    res: Resources, database: asyncpg.Connection, database_url: str, parsed_id: int
) -> None:
    async with locked(database_url) as holder:
        corrected = asyncio.create_task(correct(res, parsed_id, ADA, CORRECTED))
        await eventually(partial(waiting, holder, 1))
        replayed = asyncio.create_task(replay_webhook(res, parsed_id, BEN))
        await eventually(partial(waiting, holder, 2))
    results = await asyncio.gather(corrected, replayed)

    (email,) = await emails(database)
    assert bytes(email["raw_body"]) == CORRECTED
    assert [(each.status, each.number) for each in results] == [
        ("accepted", email["id"]),
        ("duplicate", email["id"]),
    ]


async def test_a_replay_during_a_merge_names_the_email_that_stays(
    res: Resources, database: asyncpg.Connection, parsed_id: int
) -> None:
    """The request of the webhook is that of an e-mail which becomes part of an older one."""
    stays = await add(database, idempotency_key="older", raw_body=b"{}", raw_headers="[]")
    gone = await add(database, idempotency_key="one", raw_body=ORIGINAL, raw_headers="[]")
    async with connect(res.engine) as conn, transaction(conn):
        await merge(conn, stays, gone)
        replayed = asyncio.create_task(replay_webhook(res, parsed_id, BEN))
        await eventually(partial(waiting, database, 1))
    result = await replayed

    named = await database.fetchval("SELECT email_id FROM quarantined_webhooks")
    assert (result, named) == (intake.IntakeResult("duplicate", stays), stays)


@pytest.mark.parametrize(("key", "signature"), [("one", None), ("other", b"s" * 32)])
async def test_a_correction_is_not_used_once_the_original_is_an_email(
    res: Resources, database: asyncpg.Connection, parsed_id: int, key: str, signature: bytes | None
) -> None:
    """A process of an older version was killed between the e-mail and its mark."""
    known = await add(database, idempotency_key=key, signature_hash=signature, raw_body=ORIGINAL)
    result = await correct(res, parsed_id, ADA, CORRECTED)

    (email,) = await emails(database)
    found = await webhooks.get_quarantined(res.engine, parsed_id)
    assert (result, email["id"]) == (intake.IntakeResult("duplicate", known), known)
    assert found.email_id == known
    assert [each.error_code for each in found.corrections] == ["already_replayed"]


async def test_a_replay_goes_on_with_a_correction_whose_process_was_killed(
    res: Resources, database: asyncpg.Connection, webhook_id: int
) -> None:
    await database.execute(
        "INSERT INTO quarantine_corrections (quarantine_id, corrected_by, body) VALUES ($1, $2, $3)",
        webhook_id,
        ADA,
        CORRECTED,
    )
    result = await replay_webhook(res, webhook_id, BEN)

    (email,) = await emails(database)
    reason = await database.fetchval("SELECT reason FROM operator_actions")
    assert (result.number, bytes(email["raw_body"])) == (email["id"], CORRECTED)
    assert reason.startswith(f"corrected by {ADA}")


async def test_a_correction_that_postgres_refuses_can_be_followed_by_another(
    res: Resources, database: asyncpg.Connection, webhook_id: int
) -> None:
    await database.execute("ALTER TABLE incoming_emails ADD CONSTRAINT no_x CHECK (subject <> 'x')")
    try:
        with pytest.raises(Rejected) as refused:
            await correct(res, webhook_id, ADA, b'{"ticket_id": 1, "subject": "x"}')
    finally:
        await database.execute("ALTER TABLE incoming_emails DROP CONSTRAINT no_x")
    result = await correct(res, webhook_id, ADA, CORRECTED)

    found = await webhooks.get_quarantined(res.engine, webhook_id)
    assert refused.value.code == "row_refused"
    assert result.status == "accepted"
    assert [each.error_code for each in found.corrections] == [None, "row_refused"]
    assert found.error_code == "not_json", "the reason of the original stays"


async def test_a_correction_goes_with_its_email(
    res: Resources, database: asyncpg.Connection, webhook_id: int
) -> None:
    made = await correct(res, webhook_id, ADA, CORRECTED)
    assert made.number is not None
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed', completed_at = now()")
    receipt = await database.fetchval(
        "INSERT INTO receipts (kind, actor) VALUES ('purge', 'tests') RETURNING id"
    )
    await res.run(lambda conn: remove(conn, [made.number or 0], receipt))

    for table in ("quarantine_corrections", "quarantined_webhooks", "incoming_emails"):
        assert await database.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert await database.fetchval("SELECT reason FROM operator_actions WHERE action = 'correct'") is None


# ── bulk actions


async def begin(res: Resources, task: WebhookTask, per_second: int = 2, **chosen: object) -> int:
    wanted = WebhookSelection.model_validate(chosen)
    return await bulk_webhooks.start(res, wanted, per_second, ADA, task)


async def test_all_that_match_are_replayed_and_the_others_stay(
    res: Resources, database: asyncpg.Connection
) -> None:
    good = [
        await add_quarantined_body(database, b'{"ticket_id": %d}' % number, idempotency_key=f"{number}")
        for number in range(3)
    ]
    bad = await add_quarantined_body(database, BROKEN, idempotency_key="bad")
    other = await add_quarantined(database, "no_ticket", raw_body=b'{"ticket_id": 9}')
    planned = await bulk_webhooks.plan(res, WebhookSelection(error_code="not_json"), WebhookTask("replay"))
    number = await begin(res, WebhookTask("replay"), error_code="not_json")
    await all_steps(res, database)

    done = await get_retry(res.engine, number)
    waiting = await webhooks.quarantined_ids(res.engine)
    acts = await database.fetch(
        "SELECT action, bulk_retry_id FROM operator_actions WHERE email_id IS NOT NULL"
    )
    assert planned.number == 4
    assert (done.what, done.action, done.status, done.filter) == (
        "webhook",
        "replay",
        "done",
        WebhookSelection(error_code="not_json"),
    )
    assert (done.retried, done.repaired, done.failed_again, done.still_running) == (4, 3, 1, 0)
    assert done.settled_at is not None
    assert [*waiting] == [bad, other]
    assert len(await emails(database)) == len(good)
    assert {tuple(act) for act in acts} == {("replay", number)}


async def test_all_are_dismissed_with_a_reason_and_undismissed(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_quarantined(database, "not_json", count=5)
    with pytest.raises(Rejected, match="reason"):
        await begin(res, WebhookTask("dismiss"))
    await begin(res, WebhookTask("dismiss", "Tests of the trigger."))
    steps = await all_steps(res, database)
    dismissed = await database.fetch("SELECT DISTINCT dismissed_by, dismiss_reason FROM quarantined_webhooks")
    waiting = await webhooks.quarantined_ids(res.engine)
    await begin(res, WebhookTask("undismiss"))
    await all_steps(res, database)

    assert steps == 3
    assert [tuple(row) for row in dismissed] == [(ADA, "Tests of the trigger.")]
    assert ([*waiting], len(await webhooks.quarantined_ids(res.engine))) == ([], 5)


async def test_a_cancelled_replay_stops_and_webhooks_that_came_later_are_left_alone(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_quarantined(database, "not_json", count=4)
    number = await begin(res, WebhookTask("dismiss", "No."))
    late = await add_quarantined(database, "not_json", ago="-1 minute")
    await bulk_retry.step(res)
    await bulk_retry.cancel(res, number, BEN)
    await database.execute("UPDATE bulk_retries SET next_at = now()")

    assert await bulk_retry.step(res) is False
    assert (await get_retry(res.engine, number)).retried == 2
    assert late in await webhooks.quarantined_ids(res.engine)


async def test_two_workers_on_one_step_count_each_webhook_once(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_quarantined(database, "not_json", count=6)
    number = await begin(res, WebhookTask("dismiss", "No."), per_second=10)

    async def claim(conn: AsyncConnection) -> Row[Any]:
        row = await bulk_retries.claim_step(conn, timedelta())
        assert row is not None
        return row

    row = await res.run(claim)
    await asyncio.gather(bulk_webhooks.step(res, row), bulk_webhooks.step(res, row))

    done = await get_retry(res.engine, number)
    assert (done.retried, await webhooks.quarantined_ids(res.engine)) == (6, [])
