"""The state machine: who may go where, what it stamps, and that a lost claim changes nothing."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database import connect
from service.jobs import arriving, running, waiting
from service.jobs.arriving import Arrival, Recorded
from service.jobs.running import Claim, Failure
from service.jobs.waiting import Job
from service.resources import Resources

LEASE = timedelta(seconds=30)
GONE = timedelta(seconds=-1)
BROKEN = Failure("broken", "It broke.")
FILE = {
    "position": 0,
    "source_url": "https://x",
    "file_name": "a",
    "declared_type": None,
    "declared_size": 2**60,
}


@pytest.fixture
async def conn(res: Resources) -> AsyncIterator[AsyncConnection]:
    async with connect(res.engine) as conn:
        yield conn


@pytest.fixture
async def row(database: asyncpg.Connection) -> Any:
    async def row() -> Any:
        return await database.fetchrow("SELECT *, now() AS now FROM incoming_emails")

    return row


async def receive(conn: AsyncConnection, key: str = "key") -> Job:
    email = {"zendesk_ticket_id": "1", "idempotency_key": key, "attachment_urls": []}
    [recorded] = await arriving.receive(conn, [Arrival(email, [FILE])])
    assert recorded.is_new
    return Job(recorded.email_id, 1)


async def claimed(conn: AsyncConnection, lease: timedelta = LEASE) -> Claim:
    claim = await running.claim(conn, await receive(conn), "worker", lease)
    assert claim is not None
    return claim


async def test_an_email_is_received_once_with_its_files(conn: AsyncConnection, row: Any) -> None:
    job = await receive(conn)

    twice = Arrival({"zendesk_ticket_id": "2", "idempotency_key": "key", "raw_body": b"other"}, [FILE, FILE])
    again = await arriving.receive(conn, [twice])

    assert again == [Recorded(job.email_id, is_new=False, is_same=False)]
    email = await row()
    assert (email["processing_status"], email["zendesk_ticket_id"]) == ("received", "1")


async def test_a_job_is_claimed_once_and_by_the_right_message_only(conn: AsyncConnection, row: Any) -> None:
    job = await receive(conn)
    await waiting.mark_queued(conn, [job.email_id])

    early = await running.claim(conn, Job(job.email_id, 2), "worker", LEASE)
    first = await running.claim(conn, job, "worker", LEASE)
    second = await running.claim(conn, job, "worker", LEASE)

    assert (early, first, second) == (None, Claim(job.email_id, 1, 0, "1", None), None)
    email = await row()
    assert email["processing_status"] == "processing"
    assert email["received_at"] < email["started_at"] < email["lease_until"]


async def test_marking_as_queued_takes_nothing_from_a_faster_worker(conn: AsyncConnection, row: Any) -> None:
    claim = await claimed(conn)

    await waiting.mark_queued(conn, [claim.email_id])

    assert (await row())["processing_status"] == "processing"


async def test_completing_stamps_the_end_and_clears_the_error(conn: AsyncConnection, row: Any) -> None:
    claim = await claimed(conn)
    await running.release(conn, claim, BROKEN, timedelta(0))
    claim = await running.claim(conn, Job(claim.email_id, 2), "worker", LEASE) or claim

    assert await running.complete(conn, claim)

    email = await row()
    assert (email["processing_status"], email["processing_error"], email["retry_count"]) == (
        "completed",
        None,
        1,
    )
    assert email["started_at"] <= email["completed_at"]
    assert email["lease_until"] is None


async def test_releasing_costs_a_retry_and_says_why(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    claim = await claimed(conn)

    assert await running.release(conn, claim, BROKEN, timedelta(minutes=1))

    email = await row()
    assert (email["processing_status"], email["retry_count"], email["error_code"]) == ("queued", 1, "broken")
    assert timedelta(seconds=50) < email["due_at"] - email["now"] <= timedelta(minutes=1)
    attempt = await database.fetchrow("SELECT * FROM attempts")
    assert (attempt["number"], attempt["outcome"], attempt["error"]) == (1, "released", "It broke.")
    assert await waiting.take_due(conn, 10) == []


async def test_handing_back_costs_nothing_and_is_due_at_once(conn: AsyncConnection, row: Any) -> None:
    claim = await claimed(conn)

    assert await running.hand_back(conn, claim)

    email = await row()
    assert (email["processing_status"], email["retry_count"]) == ("queued", 0)
    assert await waiting.take_due(conn, 10) == [Job(claim.email_id, 2)]


async def test_what_one_sweep_took_the_next_leaves_alone(conn: AsyncConnection) -> None:
    claim = await claimed(conn)
    await running.hand_back(conn, claim)

    assert len(await waiting.take_due(conn, 10)) == 1
    assert await waiting.take_due(conn, 10) == []


async def test_a_lost_claim_can_change_nothing(conn: AsyncConnection, row: Any) -> None:
    old = await claimed(conn, lease=GONE)
    assert await running.rescue(conn, max_retries=5, limit=10) == 1
    new = await running.claim(conn, Job(old.email_id, 2), "another", LEASE)
    before = dict(await row())

    late = [
        await running.complete(conn, old),
        await running.release(conn, old, BROKEN, timedelta(0)),
        await running.fail(conn, old, BROKEN),
        await running.hand_back(conn, old),
        await running.renew(conn, [old.held], LEASE),
    ]

    assert late == [False, False, False, False, set()]
    assert new == Claim(old.email_id, 2, 1, "1", None)
    assert {**before, "now": 0} == {**dict(await row()), "now": 0}


async def test_a_lease_that_is_renewed_is_not_rescued(conn: AsyncConnection, row: Any) -> None:
    claim = await claimed(conn, lease=GONE)

    held = await running.renew(conn, [claim.held, (999, 1)], LEASE)

    assert held == {claim.held}
    assert await running.rescue(conn, max_retries=5, limit=10) == 0
    assert (await row())["processing_status"] == "processing"


async def test_a_rescue_costs_a_retry_and_without_one_left_the_job_fails(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    claim = await claimed(conn, lease=GONE)
    await running.rescue(conn, max_retries=1, limit=10)
    assert ((await row())["processing_status"], (await row())["retry_count"]) == ("queued", 1)

    await running.claim(conn, Job(claim.email_id, 2), "worker", GONE)
    await running.rescue(conn, max_retries=1, limit=10)

    email = await row()
    assert (email["processing_status"], email["retry_count"], email["error_code"]) == (
        "failed",
        1,
        "abandoned",
    )
    assert email["completed_at"] is not None
    outcomes = await database.fetch("SELECT number, outcome FROM attempts ORDER BY number")
    assert [tuple(each) for each in outcomes] == [(1, "abandoned"), (2, "abandoned")]


async def test_only_who_was_abandoned_before_waits_for_its_rescue(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    """One that kills its workers must not meet the same neighbours each time."""
    await claimed(conn, lease=GONE)
    waits = []
    for number in range(2, 6):
        await running.rescue(conn, max_retries=9, limit=10, spread=timedelta(hours=1))
        email = await row()
        waits.append(email["due_at"] - email["now"])
        claim = await running.claim(conn, Job(email["id"], number), "worker", GONE)
    assert claim is not None
    await running.release(conn, claim, BROKEN, timedelta(0))
    await running.claim(conn, Job(claim.email_id, 6), "worker", GONE)
    await running.rescue(conn, max_retries=9, limit=10, spread=timedelta(hours=1))
    email = await row()

    assert waits[0] <= timedelta(0)
    assert all(timedelta(0) < wait <= number * timedelta(hours=1) for number, wait in enumerate(waits[1:], 1))
    assert email["due_at"] <= email["now"], "its last attempt was not abandoned, but released"


async def test_a_retry_by_hand_has_a_fresh_budget_and_keeps_history(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    claim = await claimed(conn)
    await database.execute("UPDATE attachments SET status = 'failed', error = 'x', error_code = 'y'")
    await running.fail(conn, claim, BROKEN)

    job = await waiting.retry(conn, claim.email_id)

    assert job == Job(claim.email_id, 2)
    email = await row()
    assert (email["processing_status"], email["retry_count"], email["completed_at"]) == ("queued", 0, None)
    assert await database.fetchval("SELECT status FROM attachments") == "pending"
    assert await database.fetchval("SELECT count(*) FROM attempts") == 1


@pytest.mark.parametrize("status", ["received", "queued", "processing"])
async def test_what_is_not_finished_cannot_be_retried(
    conn: AsyncConnection, database: asyncpg.Connection, status: str
) -> None:
    job = await receive(conn)
    await database.execute("UPDATE incoming_emails SET processing_status = $1", status)

    assert await waiting.retry(conn, job.email_id) is None


async def test_the_sync_columns_belong_to_somebody_else(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    claim = await claimed(conn)
    await database.execute(
        "UPDATE incoming_emails SET sync_status = 'synced', sync_error = 'e', sync_retry_count = 7"
    )

    await running.fail(conn, claim, BROKEN)
    await waiting.retry(conn, claim.email_id)

    email = await row()
    assert (email["sync_status"], email["sync_error"], email["sync_retry_count"]) == ("synced", "e", 7)


async def test_postgres_holds_the_five_states(conn: AsyncConnection, database: asyncpg.Connection) -> None:
    await receive(conn)

    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("UPDATE incoming_emails SET processing_status = 'pending'")


async def test_a_job_from_before_there_were_leases_is_rescued(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    await receive(conn)
    await database.execute("UPDATE incoming_emails SET processing_status = 'processing'")

    assert await running.rescue(conn, max_retries=5, limit=10) == 1

    assert (await row())["processing_status"] == "queued"
