"""The state machine of the sync: who may carry, who is refused, and what each end leaves."""

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
    """Put e-mails on record whose job is over, and which are to be carried."""
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
    [held] = await claim(conn, [SyncClaimRequest(email_id, LEASE)])
    return held


async def settle_one(conn: AsyncConnection, settlement: SyncSettlement) -> bool:
    [done] = await settle(conn, [settlement])
    return done


@pytest.mark.parametrize("job", ["received", "queued", "processing", *FINISHED])
@pytest.mark.parametrize("sync", ["not_applicable", "pending", "synced", "failed"])
async def test_only_what_is_finished_and_pending_is_carried(
    conn: AsyncConnection, database: asyncpg.Connection, job: str, sync: str
) -> None:
    await insert(database, processing_status=job, sync_status=sync)

    held = await claim_one(conn)

    assert bool(held) == (job in FINISHED and sync == "pending")


async def test_two_do_not_carry_the_same(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    await insert(database)

    [first, second] = await claim(conn, [SyncClaimRequest(1, LEASE)] * 2)
    third = await claim_one(conn)
    swept = await claim_due(conn, 10, LEASE, ROOM)

    assert [first or second, third, swept] == [SyncClaim(1, 1, 1, 0), None, []]
    assert (await row())["sync_attempt_number"] == 1


async def test_what_nobody_finished_with_in_time_is_carried_by_another(
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
async def test_a_state_that_is_not_the_newest_any_more_does_not_count_as_carried(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row, when: str
) -> None:
    await insert(database)
    held = await claim_one(conn)
    await retries.retry(conn, [1], "tests")
    if when != "queued again":
        status = "processing" if when == "running again" else "completed"
        await database.execute(
            "UPDATE incoming_emails SET attempt_number = 2, processing_status = $1", status
        )

    assert held
    assert not await settle_one(conn, SyncSettlement(held, "synced"))
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
async def test_each_end_leaves_what_it_should(
    conn: AsyncConnection,
    database: asyncpg.Connection,
    row: Row,
    outcome: Any,
    status: str,
    retries: int,
    error: str | None,
) -> None:
    await insert(database, sync_retry_count=2, sync_error="before")
    held = await claim_one(conn)
    assert held

    assert await settle_one(conn, SyncSettlement(held, outcome, "code", "why", timedelta(seconds=60)))

    left = await row()
    due_in = (left["sync_due_at"] - await database.fetchval("SELECT now()")).total_seconds()
    assert (left["sync_status"], left["sync_retry_count"], left["sync_error"]) == (status, retries, error)
    assert left["sync_error_code"] == (error and "code")
    assert (left["synced_at"] is not None) == (outcome == "synced")
    assert 50 < due_in <= 60


async def test_an_attempt_costs_one_retry_however_often_its_end_is_written(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    """Where the answer of Postgres was lost, it is written once more."""
    await insert(database)
    for count in (1, 2):
        held = await claim_one(conn)
        assert held
        for _ in range(3):
            assert await settle_one(conn, SyncSettlement(held, "released", "receiver_away", "x"))

        assert (await row())["sync_retry_count"] == count


async def test_what_nobody_ends_is_held_for_longer_each_time_until_somebody_does(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    await insert(database)
    held = []
    for _ in range(3):
        await database.execute("UPDATE incoming_emails SET sync_due_at = now()")
        [carrying] = await claim_due(conn, 10, LEASE, ROOM)
        lease = (await row())["sync_due_at"] - await database.fetchval("SELECT now()")
        held.append((carrying.unsettled, round(lease.total_seconds(), -1)))

    assert await settle_one(conn, SyncSettlement(carrying, "released", "receiver_away", "why"))
    again = await claim_one(conn)

    assert held == [(0, 30), (1, 60), (2, 120)]
    assert again
    assert again.unsettled == 0


async def test_who_carries_what_is_wanted_again_meanwhile_does_not_end_it(
    conn: AsyncConnection, database: asyncpg.Connection, row: Row
) -> None:
    await insert(database)
    held = await claim_one(conn)
    await retries.retry(conn, [1], "Ann", "sync")

    assert held
    assert not await settle_one(conn, SyncSettlement(held, "failed", "document_refused", "why"))
    assert (await row())["sync_status"] == "pending"


async def test_sweeps_at_the_same_time_take_different_ones(
    res: Resources, database: asyncpg.Connection
) -> None:
    await insert(database, 30)

    async def sweep() -> list[SyncClaim]:
        async with res.engine.connect() as conn:
            return await claim_due(conn, 10, LEASE, ROOM)

    taken = await asyncio.gather(*(sweep() for _ in range(4)))

    assert sorted(held.email_id for some in taken for held in some) == list(range(1, 31))


async def test_once_more_by_hand_has_a_fresh_budget_and_a_name(
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
async def test_what_is_not_finished_cannot_be_carried_by_hand(
    conn: AsyncConnection, database: asyncpg.Connection, job: str
) -> None:
    await insert(database, processing_status=job)

    assert await retries.retry(conn, [1], "Ann", "sync") == []
    assert await database.fetchval("SELECT count(*) FROM operator_actions") == 0
    assert await retries.status_of(conn, 1) == job


async def test_what_waits_for_a_target_that_is_no_more_is_let_go_after_a_while(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    await insert(database, 3)
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - interval '1 hour' WHERE id < 3")

    dropped = [await drop_overdue(conn, 1, timedelta(minutes=5)) for _ in range(3)]

    statuses = await database.fetch("SELECT sync_status FROM incoming_emails ORDER BY id")
    assert dropped == [1, 1, 0]
    assert [status for (status,) in statuses] == ["not_applicable", "not_applicable", "pending"]


@pytest.mark.parametrize("sign", ["held", "given back"])
async def test_nothing_is_let_go_while_others_still_try(
    conn: AsyncConnection, database: asyncpg.Connection, sign: str
) -> None:
    """One worker without SYNC_URL beside others whose target is away lets go of none of what waits for it."""
    await insert(database, 3)
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - interval '1 hour' WHERE id < 3")
    held = await claim_one(conn, 3)
    assert held
    if sign == "given back":
        await settle_one(conn, SyncSettlement(held, "released", "receiver_away", "away"))

    meanwhile = await drop_overdue(conn, 100, timedelta(minutes=5))
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - interval '1 hour'")
    later = await drop_overdue(conn, 100, timedelta(minutes=5))

    assert (meanwhile, later) == (0, 3)


async def test_postgres_knows_the_four_states(database: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(database, sync_status="done")


async def test_those_that_nobody_ended_are_carried_apart_from_those_that_nobody_ended_more_often(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    """One that kills workers does not meet the same neighbours until they have all used up their budget."""
    await insert(database, 12)
    for times, emails in ((1, [1, 2, 3, 4]), (2, [5, 6])):
        await database.execute(
            "UPDATE incoming_emails SET sync_unsettled = $1 WHERE id = ANY($2::bigint[])", times, emails
        )
    await database.execute("UPDATE incoming_emails SET sync_due_at = now() - make_interval(secs => 99 - id)")

    taken = []
    for _ in range(4):
        found = await claim_due(conn, 20, LEASE, ROOM)
        taken.append(sorted((held.email_id, held.unsettled) for held in found if held.unsettled))
        fresh = [held.email_id for held in found if not held.unsettled]
        assert fresh == ([] if taken[1:] else list(range(7, 13)))

    assert taken == [[(1, 1), (2, 1)], [(3, 1), (4, 1)], [(5, 2)], [(6, 2)]]


async def test_where_suspects_are_carried_that_must_not_be_met_no_other_is_taken(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    await insert(database, 2)
    await database.execute("UPDATE incoming_emails SET sync_unsettled = 3 WHERE id = 1")
    carried = Suspects(16)
    carried.add("9", 1)

    found = await claim_due(conn, 20, LEASE, carried.room_for)

    assert [held.email_id for held in found] == [2]
