"""The state machine of the sync: claims, refused claims, and the state after each settlement."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import retries
from service.jobs.syncs import (
    SyncClaim,
    SyncClaimRequest,
    SyncSettlement,
    claim,
    claim_due,
    drop_overdue,
    settle,
)
from service.jobs.waiting import Sync
from service.queue.suspects import Suspects
from service.resources import Resources

ROOM = Suspects(16).room_for
LEASE = timedelta(seconds=30)
FINISHED = ("completed", "failed")
Row = Callable[[], Awaitable[asyncpg.Record]]


@pytest.fixture
async def conn(res: Resources) -> AsyncIterator[AsyncConnection]:
    async with res.engine.connect() as conn:
        yield conn


@pytest.fixture
def row(database: asyncpg.Connection) -> Row:
    async def read() -> Any:
        return await database.fetchrow("SELECT * FROM incoming_emails")

    return read


async def insert(database: asyncpg.Connection, number: int = 1, **columns: object) -> None:
    """Insert finished e-mails with a pending sync."""
    values = {
        "zendesk_ticket_id": "1",
        "processing_status": "completed",
        "attempt_number": 1,
        "sync_status": "pending",
        **columns,
    }
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    statement = f"INSERT INTO incoming_emails ({', '.join(values)}) VALUES ({places})"
    await database.executemany(statement, [tuple(values.values())] * number)


async def claim_one(conn: AsyncConnection, email_id: int = 1) -> SyncClaim | None:
    [claimed] = await claim(conn, [SyncClaimRequest(email_id, LEASE)])
    return claimed


async def settle_one(conn: AsyncConnection, settlement: SyncSettlement) -> bool:
    [done] = await settle(conn, [settlement])
    return done


@pytest.mark.parametrize("job", ["received", "queued", "processing", *FINISHED])
@pytest.mark.parametrize("sync", ["not_applicable", "pending", "synced", "failed"])
async def test_only_finished_and_pending_emails_are_claimed(
    conn: AsyncConnection, database: asyncpg.Connection, job: str, sync: str
) -> None:
    await insert(database, processing_status=job, sync_status=sync)

    claimed = await claim_one(conn)

    assert bool(claimed) == (job in FINISHED and sync == "pending")


async def test_two_workers_do_not_claim_the_same_sync(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    await insert(database)

    [first, second] = await claim(conn, [SyncClaimRequest(1, LEASE)] * 2)
    third = await claim_one(conn)
    swept = await claim_due(conn, 10, LEASE, ROOM)

    assert [first or second, third, swept] == [SyncClaim(1, 1, 1, 0), None, []]
    assert (await row())["sync_attempt_number"] == 1


async def test_a_sync_with_an_expired_lease_is_claimed_by_another_worker(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    await insert(database)
    slow = await claim_one(conn)
    await database.execute("UPDATE incoming_emails SET sync_due_at = now()")

    [quick] = await claim_due(conn, 10, LEASE, ROOM)

    assert slow
    assert not await settle_one(conn, SyncSettlement(slow, "failed", "receiver_slow", "too late"))
    assert await settle_one(conn, SyncSettlement(quick, "synced"))
    assert not await settle_one(conn, SyncSettlement(slow, "released", "receiver_slow", "too late"))
    assert (await row())["sync_status"] == "synced"
    assert (await row())["sync_error"] is None


@pytest.mark.parametrize("when", ["queued again", "running again", "over again"])
async def test_a_settlement_for_an_older_version_is_refused(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row, when: str
) -> None:
    await insert(database)
    claimed = await claim_one(conn)
    await retries.retry(conn, [1], "tests")
    if when != "queued again":
        status = "processing" if when == "running again" else "completed"
        await database.execute(
            "UPDATE incoming_emails SET attempt_number = 2, processing_status = $1", status
        )

    assert claimed
    assert not await settle_one(conn, SyncSettlement(claimed, "synced"))
    assert (await row())["sync_status"] == "pending"


@pytest.mark.parametrize(
    ("outcome", "status", "retries", "error"),
    [
        ("synced", "synced", 2, None),
        ("failed", "failed", 2, "why"),
        ("released", "pending", 3, "why"),
        ("handed_back", "pending", 2, "why"),
    ],
)
async def test_each_settlement_leaves_the_right_state(
    conn: AsyncConnection,
    database: asyncpg.Connection,
    row: Row,
    outcome: Any,
    status: str,
    retries: int,
    error: str | None,
) -> None:
    await insert(database, sync_retry_count=2, sync_error="before")
    claimed = await claim_one(conn)
    assert claimed

    assert await settle_one(conn, SyncSettlement(claimed, outcome, "code", "why", timedelta(seconds=60)))

    left = await row()
    due_in = (left["sync_due_at"] - await database.fetchval("SELECT now()")).total_seconds()
    assert (left["sync_status"], left["sync_retry_count"], left["sync_error"]) == (status, retries, error)
    assert left["sync_error_code"] == (error and "code")
    assert (left["synced_at"] is not None) == (outcome == "synced")
    assert 50 < due_in <= 60


async def test_an_attempt_costs_one_retry_even_if_it_is_settled_twice(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    """A lost confirmation of Postgres makes a worker settle twice."""
    await insert(database)
    for count in (1, 2):
        claimed = await claim_one(conn)
        assert claimed
        for _ in range(3):
            assert await settle_one(conn, SyncSettlement(claimed, "released", "receiver_away", "x"))

        assert (await row())["sync_retry_count"] == count


async def test_leases_double_with_each_unsettled_attempt(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    await insert(database)
    leases = []
    for _ in range(3):
        await database.execute("UPDATE incoming_emails SET sync_due_at = now()")
        [claimed] = await claim_due(conn, 10, LEASE, ROOM)
        lease = (await row())["sync_due_at"] - await database.fetchval("SELECT now()")
        leases.append((claimed.unsettled, round(lease.total_seconds(), -1)))

    assert await settle_one(conn, SyncSettlement(claimed, "released", "receiver_away", "why"))
    again = await claim_one(conn)

    assert leases == [(0, 30), (1, 60), (2, 120)]
    assert again
    assert again.unsettled == 0


async def test_an_attempt_from_before_a_retry_cannot_settle_the_sync(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    await insert(database)
    claimed = await claim_one(conn)
    await retries.retry(conn, [1], "Ann", "sync")

    assert claimed
    assert not await settle_one(conn, SyncSettlement(claimed, "failed", "document_refused", "why"))
    assert (await row())["sync_status"] == "pending"


async def test_concurrent_sweeps_claim_different_syncs(res: Resources, database: asyncpg.Connection) -> None:
    await insert(database, 30)

    async def sweep() -> list[SyncClaim]:
        async with res.engine.connect() as conn:
            return await claim_due(conn, 10, LEASE, ROOM)

    taken = await asyncio.gather(*(sweep() for _ in range(4)))

    assert sorted(claimed.email_id for some in taken for claimed in some) == list(range(1, 31))


async def test_a_retry_of_a_sync_has_a_fresh_budget_and_an_operator(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    await insert(database, sync_status="failed", sync_retry_count=7, sync_error="e", sync_error_code="c")

    [begun] = await retries.retry(conn, [1], "Ann", "sync")

    left = await row()
    assert begun == Sync(1, 1)
    assert [left[f"sync_{name}"] for name in ("status", "retry_count", "error", "error_code")] == [
        "pending",
        0,
        None,
        None,
    ]
    noted = await database.fetchrow("SELECT actor, action, email_id FROM operator_actions")
    assert tuple(noted) == ("Ann", "sync", 1)


@pytest.mark.parametrize("job", ["received", "queued", "processing"])
async def test_the_sync_of_an_unfinished_job_cannot_be_retried(
    conn: AsyncConnection, database: asyncpg.Connection, job: str
) -> None:
    await insert(database, processing_status=job)

    assert await retries.retry(conn, [1], "Ann", "sync") == []
    assert await database.fetchval("SELECT count(*) FROM operator_actions") == 0
    assert await retries.status_of(conn, 1) == job


async def test_overdue_syncs_without_a_target_are_dropped(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    await insert(database, 3)
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - interval '1 hour' WHERE id < 3")

    dropped = [await drop_overdue(conn, 1, timedelta(minutes=5)) for _ in range(3)]

    statuses = await database.fetch("SELECT sync_status FROM incoming_emails ORDER BY id")
    assert dropped == [1, 1, 0]
    assert [status for (status,) in statuses] == ["not_applicable", "not_applicable", "pending"]


@pytest.mark.parametrize("sign", ["claimed", "released"])
async def test_nothing_is_dropped_while_other_workers_attempt_syncs(
    conn: AsyncConnection, database: asyncpg.Connection, sign: str
) -> None:
    """A worker without SYNC_URL drops nothing while the target of other workers is down."""
    await insert(database, 3)
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - interval '1 hour' WHERE id < 3")
    claimed = await claim_one(conn, 3)
    assert claimed
    if sign == "released":
        await settle_one(conn, SyncSettlement(claimed, "released", "receiver_away", "away"))

    meanwhile = await drop_overdue(conn, 100, timedelta(minutes=5))
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - interval '1 hour'")
    later = await drop_overdue(conn, 100, timedelta(minutes=5))

    assert (meanwhile, later) == (0, 3)


async def test_postgres_allows_only_the_four_states_of_a_sync(database: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(database, sync_status="done")


async def test_suspects_are_claimed_apart_from_those_unsettled_more_often(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    """A sync that kills workers does not run beside the same ones until all have used up their budgets."""
    await insert(database, 12)
    for times, emails in ((1, [1, 2, 3, 4]), (2, [5, 6])):
        await database.execute(
            "UPDATE incoming_emails SET sync_unsettled = $1 WHERE id = ANY($2::bigint[])", times, emails
        )
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - make_interval(secs => 99 - id)")

    taken = []
    for _ in range(4):
        found = await claim_due(conn, 20, LEASE, ROOM)
        taken.append(sorted((claimed.email_id, claimed.unsettled) for claimed in found if claimed.unsettled))
        fresh = sorted(claimed.email_id for claimed in found if not claimed.unsettled)
        assert fresh == ([] if taken[1:] else list(range(7, 13)))

    assert taken == [[(1, 1), (2, 1)], [(3, 1), (4, 1)], [(5, 2)], [(6, 2)]]


async def test_suspects_that_wait_keep_no_other_sync_waiting(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    """However many of them have been due for longer."""
    await insert(database, 30)
    await database.execute("UPDATE incoming_emails SET sync_unsettled = 1 WHERE id <= 25")
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - make_interval(secs => 99 - id)")
    suspects = Suspects(16)
    taken = []
    for _ in range(2):
        found = await claim_due(conn, 16, LEASE, suspects.room_for)
        for each in found:
            suspects.add(str(each.email_id), each.unsettled)
        taken.append([each.email_id for each in found])

    assert sorted(email_id for email_id in taken[0] if email_id > 25) == [26, 27, 28, 29, 30]
    assert taken[1] == []  # the suspects that run have to end first


async def test_no_suspect_is_claimed_beside_suspects_unsettled_less_often(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    await insert(database, 2)
    await database.execute("UPDATE incoming_emails SET sync_unsettled = 3 WHERE id = 1")
    suspects = Suspects(16)
    suspects.add("9", 1)

    found = await claim_due(conn, 20, LEASE, suspects.room_for)

    assert [claimed.email_id for claimed in found] == [2]
