"""A job that kills its workers is isolated, and the jobs claimed beside it use no retry."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.capture.sweep import sweep
from service.jobs import attempts, retries, waiting
from service.jobs.arrival import Arrival, receive
from service.jobs.attempts import MOST_ABANDONED, Claim, ClaimRequest, Settlement
from service.jobs.waiting import Job
from service.postgres.engine import connect
from service.queue.suspects import Suspects
from service.resources import Resources

MOST_JOBS = 200
HOUR = timedelta(hours=1)
GONE = timedelta(seconds=-1)


class Process:
    """Stand-in for a worker process: it takes jobs from a sweep, and its attempts take no time unless one kills it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.suspects = Suspects(MOST_JOBS)

    @property
    def free_slots(self) -> int:
        return MOST_JOBS - len(self.jobs)

    def room_for(self, abandoned: int) -> int:
        return self.suspects.room_for(abandoned)

    def start_attempt(self, job_id: str, email_id: int, attempt_number: int, abandoned: int = 0) -> None:
        self.jobs.append(Job(email_id, attempt_number))
        if abandoned:
            self.suspects.add(job_id, abandoned)


@pytest.fixture
async def conn(res: Resources) -> AsyncIterator[AsyncConnection]:
    async with connect(res.engine) as conn:
        yield conn


@pytest.mark.parametrize("poisons", [1, 7])
async def test_only_jobs_that_kill_workers_fail_and_no_other_job_uses_a_retry(
    poisons: int, res: Resources, conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    """Two workers get 500 good e-mails together with some that kill each process that claims them."""
    emails = await arrive(conn, 500 + poisons)
    deadly = set(emails[3 : 500 : 500 // poisons][:poisons])
    deaths = 0

    while await unfinished(database):
        for process in (Process(), Process()):
            await sweep(res, process)
            deaths += await live(conn, process, deadly)
        assert deaths <= MOST_ABANDONED * poisons
        # Instead of waiting for leases and backoffs.
        await database.execute(
            "UPDATE incoming_emails SET due_at = now(), lease_until = lease_until - '1 h'::interval"
        )

    rows = await database.fetch("SELECT id, processing_status, error_code, retry_count FROM incoming_emails")
    failed = {row["id"] for row in rows if tuple(row)[1:] == ("failed", "abandoned", 0)}
    completed = {row["id"] for row in rows if tuple(row)[1:] == ("completed", None, 0)}
    assert failed == deadly
    assert completed == set(emails) - deadly
    most = await database.fetchval(
        "SELECT max(number) FROM attempts WHERE NOT email_id = ANY($1::bigint[])", list(deadly)
    )
    assert most <= MOST_ABANDONED - 1, "a good one came close to its budget"


async def live(conn: AsyncConnection, process: Process, deadly: set[int]) -> int:
    """Claim the jobs of the process; return 1 if one kills it, else complete them all."""
    claims = [
        claim
        for claim in await attempts.claim(conn, [ClaimRequest(job, "w", HOUR) for job in process.jobs])
        if claim
    ]
    if any(claim.email_id in deadly for claim in claims):
        return 1
    await attempts.settle(conn, [Settlement(claim, "completed") for claim in claims])
    return 0


async def arrive(conn: AsyncConnection, number: int) -> list[int]:
    arrivals = [
        Arrival({"zendesk_ticket_id": "1", "idempotency_key": f"key {n}", "attachment_urls": []}, [])
        for n in range(number)
    ]
    recorded = [each.email_id or 0 for each in await receive(conn, arrivals)]
    await conn.execute(text("UPDATE incoming_emails SET due_at = now()"))
    return recorded


async def unfinished(database: asyncpg.Connection) -> int:
    return int(
        await database.fetchval(
            "SELECT count(*) FROM incoming_emails WHERE processing_status NOT IN ('completed', 'failed')"
        )
    )


async def abandon(conn: AsyncConnection, job: Job, times: int) -> Job:
    """Let the workers of a job die this many times in a row."""
    for number in range(job.attempt_number, job.attempt_number + times):
        await claim_one(conn, Job(job.email_id, number), GONE)
        await attempts.take_back(conn, 10)
    return Job(job.email_id, job.attempt_number + times)


async def claim_one(conn: AsyncConnection, job: Job, lease: timedelta = HOUR) -> Claim:
    [claim] = await attempts.claim(conn, [ClaimRequest(job, "worker", lease)])
    assert claim
    return claim


async def test_suspects_run_only_beside_those_abandoned_equally_often() -> None:
    suspects = Suspects(MOST_JOBS)
    empty = [suspects.room_for(abandoned) for abandoned in (1, 2, 3, 9)]
    suspects.add("a", 2)
    beside = [suspects.room_for(abandoned) for abandoned in (1, 2, 3)]
    suspects.discard("a")

    assert empty == [25, 3, 1, 1]
    assert beside == [0, 2, 0]
    assert suspects.room_for(1) == 25
    assert Suspects(1).room_for(1) == 1, "a process of one job also runs suspects"


async def test_a_suspect_waits_for_those_abandoned_less_often(
    res: Resources, conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    """The suspect that is due for longest decides, so that none waits for ever."""
    first, second = await arrive(conn, 2)
    await abandon(conn, Job(first, 1), 2)
    await abandon(conn, Job(second, 1), 1)
    await database.execute("UPDATE incoming_emails SET due_at = now() - make_interval(secs => 9 - id)")
    process = Process()

    process.suspects.add("of another count", 1)
    await sweep(res, process)
    while_busy = list(process.jobs)
    process.suspects.discard("of another count")
    await sweep(res, process)
    when_free = list(process.jobs)
    await sweep(res, process)
    in_the_end = list(process.jobs)

    assert while_busy == []
    assert when_free == in_the_end == [Job(first, 3)]


async def test_a_suspect_is_never_dispatched(
    res: Resources, conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    """A message does not tell that its job is a suspect; workers start suspects from the sweep."""
    [email_id] = await arrive(conn, 1)
    job = await abandon(conn, Job(email_id, 1), 1)
    await database.execute("UPDATE incoming_emails SET due_at = now()")

    assert await waiting.take_due(conn, 10) == []
    assert await waiting.next_abandoned_count(conn) == 1
    assert await waiting.take_suspects(conn, 2, 10) == []
    assert await waiting.take_suspects(conn, 1, 10) == [job]
    assert await waiting.next_abandoned_count(conn) is None, "it is postponed, for whoever took it"


@pytest.mark.parametrize(
    ("outcome", "left"), [("completed", 0), ("released", 0), ("failed", 0), ("handed_back", 2)]
)
async def test_a_settled_attempt_clears_a_suspect_unless_it_was_handed_back(
    outcome: str, left: int, conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    [email_id] = await arrive(conn, 1)
    claim = await claim_one(conn, await abandon(conn, Job(email_id, 1), 2))
    failure = attempts.Failure("broken", "It broke.") if outcome in ("released", "failed") else None

    await attempts.settle(conn, [Settlement(claim, outcome, failure)])  # type: ignore[arg-type] # one of four

    assert await database.fetchval("SELECT abandoned_count FROM incoming_emails") == left


async def test_a_retry_has_a_fresh_budget_of_abandoned_attempts(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    [email_id] = await arrive(conn, 1)
    await abandon(conn, Job(email_id, 1), MOST_ABANDONED)
    status = await retries.status_of(conn, email_id)
    await retries.retry(conn, [email_id], "tests")

    assert status == "failed"
    assert await database.fetchval("SELECT abandoned_count FROM incoming_emails") == 0
