"""Batches: callers share statements, and none fails because of another."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service import group_commit
from service.errors import Permanent, Transient
from service.jobs.arrival import Arrival, Recorded, receive
from service.jobs.waiting import Job
from service.postgres.batch import Batcher
from service.postgres.engine import connect
from service.resources import Resources

FILE = {"position": 0, "source_url": "https://x", "file_name": "a", "declared_type": None, "declared_size": 1}


class Postgres:
    """Stands for the connection: records the statements, and lets a test delay them."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.error: Exception | None = None

    async def run(self, _: Callable[..., Awaitable[Any]], items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(items))
        await self.goes_on.wait()
        if self.error:
            error, self.error = self.error, None
            raise error
        if "bad" in items:
            raise Permanent("unstorable", "One of them is bad.")
        return [f"{item}!" for item in items]


async def statement(_conn: AsyncConnection, items: Sequence[str]) -> Sequence[str]:
    return items


@pytest.fixture
def postgres() -> Postgres:
    return Postgres()


@pytest.fixture
def coalesce(postgres: Postgres) -> Batcher:
    return Batcher(postgres.run)


async def busy(postgres: Postgres, coalesce: Batcher) -> list[asyncio.Task[str]]:
    """Occupy every lane with a statement."""
    postgres.goes_on.clear()
    tasks = []
    for lane in range(group_commit.LANES):
        tasks.append(asyncio.create_task(coalesce(statement, f"lane {lane}")))
        await asyncio.sleep(0.01)
    return tasks


def called(coalesce: Batcher, *items: str) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(coalesce(statement, item)) for item in items]


async def test_the_first_caller_runs_at_once(postgres: Postgres, coalesce: Batcher) -> None:
    assert await coalesce(statement, "a") == "a!"
    assert postgres.batches == [["a"]]


async def test_callers_during_a_statement_share_the_next_one(postgres: Postgres, coalesce: Batcher) -> None:
    first = await busy(postgres, coalesce)
    others = called(coalesce, *"abcdefgh")
    await asyncio.sleep(0)
    postgres.goes_on.set()

    assert await asyncio.gather(*others) == [f"{item}!" for item in "abcdefgh"]
    assert postgres.batches == [["lane 0"], ["lane 1"], list("abcdefgh")]
    await asyncio.gather(*first)


async def test_a_bad_item_fails_alone(postgres: Postgres, coalesce: Batcher) -> None:
    first = await busy(postgres, coalesce)
    others = called(coalesce, "a", "bad", "b")
    await asyncio.sleep(0)
    postgres.goes_on.set()

    results = await asyncio.gather(*others, return_exceptions=True)

    assert [results[0], results[2]] == ["a!", "b!"]
    assert isinstance(results[1], Permanent)
    await asyncio.gather(*first)


async def test_a_cancelled_caller_harms_no_other(postgres: Postgres, coalesce: Batcher) -> None:
    first = await busy(postgres, coalesce)
    waiting = called(coalesce, "a", "b", "c")
    await asyncio.sleep(0)
    waiting[1].cancel()
    first[0].cancel()  # its statement is running
    await asyncio.sleep(0)
    postgres.goes_on.set()

    results = await asyncio.gather(*first, *waiting, return_exceptions=True)

    assert [results[1], results[2], results[4]] == ["lane 1!", "a!", "c!"]
    assert isinstance(results[0], asyncio.CancelledError)
    assert ["a", "c"] in postgres.batches


async def test_a_lost_connection_fails_only_the_callers_that_shared_it(
    postgres: Postgres, coalesce: Batcher
) -> None:
    first = await busy(postgres, coalesce)
    shared = called(coalesce, "a", "b")
    await asyncio.sleep(0)
    postgres.goes_on.set()
    await asyncio.gather(*first)
    results = await asyncio.gather(*shared, return_exceptions=True)
    postgres.error = Transient("database_disconnected", "It broke.")
    broken = await asyncio.gather(*called(coalesce, "c", "d"), return_exceptions=True)

    assert results == ["a!", "b!"]
    assert all(isinstance(result, Transient) for result in broken)
    assert await coalesce(statement, "e") == "e!"


async def test_a_caller_is_served_while_all_lanes_end(postgres: Postgres, coalesce: Batcher) -> None:
    """Postgres answers all commits of one fsync together."""
    first = await busy(postgres, coalesce)
    postgres.goes_on.set()
    told = []
    for _ in range(30):  # turns of the loop; the lanes end in some of them
        told.append(asyncio.create_task(coalesce(statement, "next")))
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        results = await asyncio.gather(*first, *told)

    assert results[2:] == ["next!"] * 30
    assert await coalesce(statement, "last") == "last!"


async def test_a_caller_beyond_the_limit_is_refused(
    postgres: Postgres, coalesce: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MOST_WAITING", 3)
    first = await busy(postgres, coalesce)
    waiting = called(coalesce, "a", "b", "c")
    await asyncio.sleep(0)

    assert coalesce.is_full(statement)
    with pytest.raises(Transient) as refused:
        await coalesce(statement, "d")
    postgres.goes_on.set()

    assert refused.value.code == "overloaded"
    assert await asyncio.gather(*waiting) == ["a!", "b!", "c!"]
    assert not coalesce.is_full(statement)
    await asyncio.gather(*first)


async def test_a_caller_whose_time_is_over_goes_alone(postgres: Postgres, coalesce: Batcher) -> None:
    """Neither its place in the queue nor a running statement keeps it, and the others get their results."""
    now = asyncio.get_running_loop().time()
    first = await busy(postgres, coalesce)
    waiting = called(coalesce, "a")

    with pytest.raises(Transient) as slow:
        await coalesce(statement, "b", until=now)
    postgres.goes_on.set()

    assert slow.value.code == "database_slow"
    assert await asyncio.gather(*first, *waiting) == ["lane 0!", "lane 1!", "a!"]
    assert ["a"] in postgres.batches
    assert await coalesce(statement, "c", until=now + 3600) == "c!"


async def test_large_items_do_not_make_one_huge_statement(postgres: Postgres, coalesce: Batcher) -> None:
    first = await busy(postgres, coalesce)
    third = group_commit.MOST_TOGETHER_BYTES // 3
    large = [asyncio.create_task(coalesce(statement, str(n), size=third)) for n in range(10)]
    await asyncio.sleep(0)
    postgres.goes_on.set()
    await asyncio.gather(*first, *large)

    assert max(map(len, postgres.batches)) == 3
    assert sum(map(len, postgres.batches)) == 12


async def test_an_item_above_the_limit_runs_alone(postgres: Postgres, coalesce: Batcher) -> None:
    sizes = (2 * group_commit.MOST_TOGETHER_BYTES, 1, 2 * group_commit.MOST_TOGETHER_BYTES)

    results = await asyncio.gather(*(coalesce(statement, str(size), size=size) for size in sizes))

    assert results == [f"{size}!" for size in sizes]


async def test_closing_waits_for_running_batches_within_its_budget(
    postgres: Postgres, coalesce: Batcher
) -> None:
    first = await busy(postgres, coalesce)

    await coalesce.close(0.05)
    results = await asyncio.gather(*first, return_exceptions=True)

    assert {type(result) for result in results} == {Transient}


def arrival(key: str, body: bytes = b"{}", files: int = 1, **columns: object) -> Arrival:
    return Arrival(
        {"idempotency_key": key, "zendesk_ticket_id": "1", "raw_body": body, **columns},
        [{**FILE, "position": position} for position in range(files)],
    )


async def test_of_emails_with_one_key_the_first_is_recorded_once(
    res: Resources, database: asyncpg.Connection
) -> None:
    async with connect(res.engine) as conn:
        old = await receive(conn, [arrival("b", b"old")])
        told = await receive(
            conn,
            [
                arrival("c"),
                arrival("a", b"1", files=3),
                arrival("a", b"2"),
                arrival("b", b"old"),
                arrival("a", b"1"),
            ],
        )

    ids = {row["idempotency_key"]: row["id"] for row in await database.fetch("SELECT * FROM incoming_emails")}
    assert old == [Recorded(ids["b"], is_new=True, is_same=True, job=Job(ids["b"], 1))]
    assert told == [
        Recorded(ids["c"], is_new=True, is_same=True, job=Job(ids["c"], 1)),
        Recorded(ids["a"], is_new=True, is_same=True, job=Job(ids["a"], 1)),
        Recorded(ids["a"], is_new=False, is_same=False),
        Recorded(ids["b"], is_new=False, is_same=True),
        Recorded(ids["a"], is_new=False, is_same=True),
    ]
    files = await database.fetch("SELECT email_id, count(*) FROM attachments GROUP BY 1")
    assert {row[0]: row[1] for row in files} == {ids["a"]: 3, ids["b"]: 1, ids["c"]: 1}


async def test_each_email_of_a_batch_keeps_its_values_where_others_have_none(
    res: Resources, database: asyncpg.Connection
) -> None:
    received = datetime(2024, 2, 29, tzinfo=UTC)
    given: list[dict[str, Any]] = [
        {},
        {"subject": "Invoice", "late": True, "comment_id": "7", "account_id": "1"},
        {"received_at": received, "late": False, "signature_hash": b"3"},
    ]
    names = ("subject", "late", "comment_id", "account_id", "identified", "signature_hash")
    empty = (None, False, None, None, False, None)
    query = f"SELECT {', '.join(names)}, received_at FROM incoming_emails ORDER BY idempotency_key"
    arrivals = [arrival(str(number), **columns) for number, columns in enumerate(given)]

    async with connect(res.engine) as conn:
        await receive(conn, arrivals)
    rows = [tuple(row) for row in await database.fetch(query)]

    assert [row[:-1] for row in rows] == [
        empty,
        ("Invoice", True, "7", "1", True, None),
        (None, False, None, None, False, b"3"),
    ]
    assert [row[-1] == received for row in rows] == [False, False, True]


async def test_overlapping_batches_do_not_deadlock(res: Resources, database: asyncpg.Connection) -> None:
    keys = [f"key {number}" for number in range(100)]

    async def record(order: Sequence[str]) -> int:
        async with connect(res.engine) as conn:
            return sum(recorded.is_new for recorded in await receive(conn, [arrival(key) for key in order]))

    new = await asyncio.gather(*(record(order) for order in (keys, keys[::-1]) * 4))

    assert sum(new) == 100
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 100


async def test_a_refused_email_fails_alone_in_its_batch(res: Resources, database: asyncpg.Connection) -> None:
    arrivals = [arrival(str(number)) for number in range(20)]
    arrivals[7] = arrival("7", subject="\ud800")  # a lone surrogate has no UTF-8

    results = await asyncio.gather(*(res.batch(receive, each) for each in arrivals), return_exceptions=True)

    assert isinstance(results.pop(7), Permanent)
    assert all(isinstance(result, Recorded) and result.is_new for result in results)
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 19
