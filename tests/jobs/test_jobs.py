"""The state machine of jobs: allowed transitions, the columns they write, and lost claims that change nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent
from service.jobs import arrival, attempts, retries, waiting
from service.jobs.arrival import Arrival, Recorded
from service.jobs.attempts import Claim, ClaimRequest, Failure, Settlement
from service.jobs.waiting import Job
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import connect
from service.resources import Resources
from tests.conftest import Server, eventually

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
    [recorded] = await arrival.receive(conn, [Arrival(email, [FILE])])
    assert recorded.is_new
    assert recorded.email_id is not None
    return Job(recorded.email_id, 1)


async def claim_one(conn: AsyncConnection, job: Job, lease: timedelta = LEASE) -> Claim | None:
    [claim] = await attempts.claim(conn, [ClaimRequest(job, "worker", lease)])
    return claim


async def settle_one(conn: AsyncConnection, settlement: Settlement) -> bool:
    [held] = await attempts.settle(conn, [settlement])
    return held


async def claimed(conn: AsyncConnection, lease: timedelta = LEASE) -> Claim:
    claim = await claim_one(conn, await receive(conn), lease)
    assert claim is not None
    return claim


async def test_an_email_is_received_once_with_its_files(conn: AsyncConnection, row: Any) -> None:
    job = await receive(conn)

    twice = Arrival({"zendesk_ticket_id": "2", "idempotency_key": "key", "raw_body": b"other"}, [FILE, FILE])
    retries = await arrival.receive(conn, [twice])

    assert retries == [Recorded(job.email_id, is_new=False, is_same=False)]
    email = await row()
    assert (email["processing_status"], email["zendesk_ticket_id"]) == ("received", "1")


async def test_a_job_is_claimed_once_and_only_by_the_message_of_its_next_attempt(
    conn: AsyncConnection, row: Any
) -> None:
    job = await receive(conn)
    await waiting.mark_queued(conn, [job.email_id])

    early = await claim_one(conn, Job(job.email_id, 2))
    first = await claim_one(conn, job)
    second = await claim_one(conn, job)

    assert (early, first, second) == (None, Claim(job.email_id, 1, 0, "1", None), None)
    email = await row()
    assert email["processing_status"] == "processing"
    assert email["received_at"] < email["started_at"] < email["lease_until"]


async def test_marking_as_queued_leaves_a_claimed_job_alone(conn: AsyncConnection, row: Any) -> None:
    claim = await claimed(conn)

    await waiting.mark_queued(conn, [claim.email_id])

    assert (await row())["processing_status"] == "processing"


async def test_completing_sets_the_end_and_clears_the_error(conn: AsyncConnection, row: Any) -> None:
    claim = await claimed(conn)
    await settle_one(conn, Settlement(claim, "released", BROKEN, timedelta(0)))
    claim = await claim_one(conn, Job(claim.email_id, 2)) or claim

    assert await settle_one(conn, Settlement(claim, "completed"))

    email = await row()
    assert (email["processing_status"], email["processing_error"], email["retry_count"]) == (
        "completed",
        None,
        1,
    )
    assert email["started_at"] <= email["completed_at"]
    assert email["lease_until"] is None


async def test_a_release_costs_a_retry_and_records_the_error(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    claim = await claimed(conn)

    assert await settle_one(conn, Settlement(claim, "released", BROKEN, timedelta(minutes=1)))

    email = await row()
    assert (email["processing_status"], email["retry_count"], email["error_code"]) == ("queued", 1, "broken")
    assert timedelta(seconds=50) < email["due_at"] - email["now"] <= timedelta(minutes=1)
    attempt = await database.fetchrow("SELECT * FROM attempts")
    assert (attempt["number"], attempt["outcome"], attempt["error"]) == (1, "released", "It broke.")
    assert await waiting.take_due(conn, 10) == []


@pytest.mark.parametrize(
    ("outcome", "retries"), [("completed", 0), ("failed", 0), ("released", 6), ("handed_back", 5)]
)
async def test_files_announced_during_an_attempt_get_all_retries_after_its_end(
    outcome: Any, retries: int, conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    claim = await claimed(conn)
    await database.execute("UPDATE incoming_emails SET has_news = true, retry_count = 5")

    await settle_one(conn, Settlement(claim, outcome, BROKEN if outcome == "failed" else None))

    email = await row()
    assert (email["processing_status"], email["retry_count"]) == ("queued", retries)
    assert email["due_at"] <= email["now"]


async def test_a_hand_back_costs_no_retry_and_is_due_at_once(conn: AsyncConnection, row: Any) -> None:
    claim = await claimed(conn)

    assert await settle_one(conn, Settlement(claim, "handed_back"))

    email = await row()
    assert (email["processing_status"], email["retry_count"]) == ("queued", 0)
    assert await waiting.take_due(conn, 10) == [Job(claim.email_id, 2)]


async def test_a_job_taken_by_one_sweep_is_left_alone_by_the_next(conn: AsyncConnection) -> None:
    claim = await claimed(conn)
    await settle_one(conn, Settlement(claim, "handed_back"))

    assert len(await waiting.take_due(conn, 10)) == 1
    assert await waiting.take_due(conn, 10) == []


async def test_a_lost_claim_can_change_nothing(conn: AsyncConnection, row: Any) -> None:
    old = await claimed(conn, lease=GONE)
    assert await attempts.take_back(conn, limit=10) == 1
    new = await claim_one(conn, Job(old.email_id, 2))
    before = dict(await row())

    late = [
        await settle_one(conn, Settlement(old, "completed")),
        await settle_one(conn, Settlement(old, "released", BROKEN, timedelta(0))),
        await settle_one(conn, Settlement(old, "failed", BROKEN)),
        await settle_one(conn, Settlement(old, "handed_back")),
        await attempts.renew(conn, [old.fencing_token], LEASE),
    ]

    assert late == [False, False, False, False, set()]
    assert new == Claim(old.email_id, 2, 0, "1", None)
    assert {**before, "now": 0} == {**dict(await row()), "now": 0}


async def test_settling_twice_in_the_same_way_succeeds(conn: AsyncConnection, row: Any) -> None:
    """The confirmation of the first settlement was lost with the connection."""
    claim = await claimed(conn)
    await settle_one(conn, Settlement(claim, "released", BROKEN))
    before = dict(await row())

    assert await settle_one(conn, Settlement(claim, "released", BROKEN))
    assert not await settle_one(conn, Settlement(claim, "completed"))

    assert {**before, "now": 0} == {**dict(await row()), "now": 0}


async def test_settlements_in_one_statement_have_a_result_each(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    jobs = [await receive(conn, f"key {number}") for number in range(6)]
    claims = [claim for claim in [await claim_one(conn, job) for job in jobs] if claim]
    lost, *others = claims
    await settle_one(conn, Settlement(lost, "handed_back"))

    held = await attempts.settle(
        conn,
        [
            Settlement(others[0], "completed"),
            Settlement(lost, "completed"),
            Settlement(others[1], "failed", BROKEN),
            Settlement(others[2], "released", BROKEN, timedelta(hours=1)),
            Settlement(Claim(999, 1, 0, "1", None), "completed"),
            Settlement(others[3], "handed_back"),
        ],
    )

    assert held == [True, False, True, True, False, True]
    rows = await database.fetch("SELECT * FROM incoming_emails ORDER BY id")
    states = ["queued", "completed", "failed", "queued", "queued", "processing"]
    assert [each["processing_status"] for each in rows] == states
    assert [each["retry_count"] for each in rows] == [0, 0, 0, 1, 0, 0]
    errors = await database.fetch("SELECT outcome, error FROM attempts ORDER BY email_id")
    assert [tuple(each) for each in errors] == [
        ("handed_back", None),
        ("completed", None),
        ("failed", "It broke."),
        ("released", "It broke."),
        ("handed_back", None),
        (None, None),
    ]


async def test_workers_that_claim_the_same_jobs_in_any_order_get_each_job_once(
    res: Resources, conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    jobs = [await receive(conn, f"key {number}") for number in range(60)]

    async def work(order: Sequence[Job]) -> list[Claim]:
        async with connect(res.engine) as own:
            claims = await attempts.claim(own, [ClaimRequest(job, "worker", LEASE) for job in order])
            held = [claim for claim in claims if claim]
            done = await attempts.settle(own, [Settlement(claim, "handed_back") for claim in held])
        assert done == [True] * len(held)
        return held

    orders = (jobs, jobs[::-1], jobs[20:] + jobs[:20] + jobs[:20], jobs[40:])
    given = await asyncio.gather(*(work(order) for order in orders * 2))

    assert sorted(claim.fencing_token for claims in given for claim in claims) == [
        (job.email_id, 1) for job in jobs
    ]
    assert await database.fetchval("SELECT count(*) FROM attempts WHERE outcome = 'handed_back'") == 60


async def test_a_claim_that_loses_a_deadlock_is_repeated(
    res: Resources, conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    """Another program may lock the rows in another order."""
    first, second = [await receive(conn, f"key {number}") for number in range(2)]
    touch = "UPDATE incoming_emails SET subject = 'x' WHERE id = $1"
    with suppress(asyncpg.DeadlockDetectedError):
        async with database.transaction():
            await database.execute(touch, second.email_id)
            claims = [
                asyncio.create_task(res.batch(attempts.claim, ClaimRequest(job, "worker", LEASE)))
                for job in (first, second)
            ]
            await eventually(partial(waits_for_a_lock, conn))
            await database.execute(touch, first.email_id)

    assert all(await asyncio.gather(*claims))


async def waits_for_a_lock(conn: AsyncConnection) -> bool:
    return bool(await conn.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


async def test_a_claim_that_postgres_refuses_fails_alone(res: Resources, conn: AsyncConnection) -> None:
    jobs = [await receive(conn, f"key {number}") for number in range(20)]
    jobs[7] = Job(2**70, 1)

    claims = await asyncio.gather(
        *(res.batch(attempts.claim, ClaimRequest(job, "worker", LEASE)) for job in jobs),
        return_exceptions=True,
    )

    assert isinstance(claims.pop(7), Permanent)
    assert all(isinstance(claim, Claim) for claim in claims)


async def test_a_job_with_a_renewed_lease_is_not_taken_back(conn: AsyncConnection, row: Any) -> None:
    claim = await claimed(conn, lease=GONE)

    held = await attempts.renew(conn, [claim.fencing_token, (999, 1)], LEASE)

    assert held == {claim.fencing_token}
    assert await attempts.take_back(conn, limit=10) == 0
    assert (await row())["processing_status"] == "processing"


async def test_an_abandoned_attempt_costs_no_retry_and_too_many_in_a_row_fail_the_job(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    claim = await claimed(conn, lease=GONE)
    await attempts.take_back(conn, limit=10, most_abandoned=2)
    assert ((await row())["processing_status"], (await row())["abandoned_count"]) == ("queued", 1)

    await claim_one(conn, Job(claim.email_id, 2), GONE)
    await attempts.take_back(conn, limit=10, most_abandoned=2)

    email = await row()
    assert (email["processing_status"], email["error_code"]) == ("failed", "abandoned")
    assert (email["retry_count"], email["abandoned_count"]) == (0, 2)
    assert email["processing_error"].startswith("Look up the workers of the last 2 attempts in their logs")
    assert email["completed_at"] is not None
    outcomes = await database.fetch("SELECT number, outcome FROM attempts ORDER BY number")
    assert [tuple(each) for each in outcomes] == [(1, "abandoned"), (2, "abandoned")]


async def test_only_a_job_that_was_abandoned_before_is_due_later(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    """A job that kills its workers must not run beside the same jobs each time."""
    await claimed(conn, lease=GONE)
    waits = []
    for number in range(2, 6):
        await attempts.take_back(conn, limit=10, spread=timedelta(hours=1), most_abandoned=9)
        email = await row()
        waits.append(email["due_at"] - email["now"])
        claim = await claim_one(conn, Job(email["id"], number), GONE)
    assert claim is not None
    await settle_one(conn, Settlement(claim, "released", BROKEN, timedelta(0)))
    await claim_one(conn, Job(claim.email_id, 6), GONE)
    await attempts.take_back(conn, limit=10, spread=timedelta(hours=1), most_abandoned=9)
    email = await row()

    assert waits[0] <= timedelta(0)
    assert all(timedelta(0) < wait <= number * timedelta(hours=1) for number, wait in enumerate(waits[1:], 1))
    assert email["due_at"] <= email["now"], "its last attempt was not abandoned, but released"


async def test_a_retry_has_a_fresh_budget_and_keeps_history(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    claim = await claimed(conn)
    await database.execute("UPDATE attachments SET status = 'failed', error = 'x', error_code = 'y'")
    await settle_one(conn, Settlement(claim, "failed", BROKEN))

    [job] = await retries.retry(conn, [claim.email_id], "tests")

    assert job == Job(claim.email_id, 2)
    email = await row()
    assert (email["processing_status"], email["retry_count"], email["completed_at"]) == ("queued", 0, None)
    assert await database.fetchval("SELECT status FROM attachments") == "pending"
    assert await database.fetchval("SELECT count(*) FROM attempts") == 1


@pytest.mark.parametrize("status", ["received", "queued", "processing"])
async def test_an_unfinished_job_cannot_be_retried(
    conn: AsyncConnection, database: asyncpg.Connection, status: str
) -> None:
    job = await receive(conn)
    await database.execute("UPDATE incoming_emails SET processing_status = $1", status)

    assert await retries.retry(conn, [job.email_id], "tests") == []


@pytest.mark.parametrize("outcome", ["completed", "failed"])
async def test_only_the_end_of_a_job_starts_its_sync_again(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection, outcome: Any
) -> None:
    claim = await claimed(conn)
    await settle_one(conn, Settlement(claim, outcome, sync_status="pending"))
    begun = await row()
    await database.execute(
        "UPDATE incoming_emails SET sync_status = 'failed', sync_error = 'e', sync_retry_count = 7"
    )

    await retries.retry(conn, [claim.email_id], "tests")
    queued = await row()
    held = await claim_one(conn, Job(claim.email_id, 2))
    assert held
    await settle_one(conn, Settlement(held, "released", BROKEN, sync_status="pending"))
    released = await row()
    held = await claim_one(conn, Job(claim.email_id, 3))
    assert held
    await settle_one(conn, Settlement(held, "completed", sync_status="pending"))

    sync = ("sync_status", "sync_error", "sync_retry_count")
    assert [begun[name] for name in sync] == ["pending", None, 0]
    assert [queued[name] for name in sync] == ["failed", "e", 7]
    assert [released[name] for name in sync] == ["failed", "e", 7]
    assert [(await row())[name] for name in sync] == ["pending", None, 0]


async def test_postgres_allows_only_the_five_states(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    await receive(conn)

    with pytest.raises(asyncpg.CheckViolationError):
        await database.execute("UPDATE incoming_emails SET processing_status = 'pending'")


async def test_a_running_job_without_a_lease_is_taken_back(
    conn: AsyncConnection, row: Any, database: asyncpg.Connection
) -> None:
    await receive(conn)
    await database.execute("UPDATE incoming_emails SET processing_status = 'processing'")

    assert await attempts.take_back(conn, limit=10) == 1

    assert (await row())["processing_status"] == "queued"


async def test_marking_as_queued_waits_for_no_lock(
    client: Server, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """A worker that is claiming one of these jobs needs no mark, and could wait for our locks in turn."""
    emails = [(await client.send(zendesk.payload()))["email_id"] for _ in range(3)]
    await database.execute("UPDATE incoming_emails SET processing_status = 'received'")
    async with database.transaction():
        await database.execute("SELECT 1 FROM incoming_emails WHERE id = $1 FOR UPDATE", emails[1])
        async with connect(res.engine) as conn:
            await waiting.mark_queued(conn, emails)

    rows = await database.fetch("SELECT processing_status FROM incoming_emails ORDER BY id")
    assert [row["processing_status"] for row in rows] == ["queued", "received", "queued"]
