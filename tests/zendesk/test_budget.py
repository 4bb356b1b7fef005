"""The budget of calls to Zendesk's API: all workers together never make more calls in a window than it allows."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from service.errors import Transient
from service.postgres.batch import Batcher
from service.postgres.engine import close_engine, create_engine, run
from service.zendesk.budget import MOST_LIMIT, SharedBudget
from service.zendesk.rate_limit import MOST_PAUSE_SECONDS, key_of

URL_OF_ACCOUNT = URL("https://acme.zendesk.com")
SECONDS = 30.0
HELD = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
async def row(database: asyncpg.Connection) -> asyncpg.Connection:
    """A database without budgets."""
    await database.execute("DELETE FROM api_budgets")
    return database


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Batcher]:
    """Open the connections of a process."""
    engine = create_engine(url, pool_size=2, seconds=SECONDS)
    batch = Batcher(lambda statement, items: run(engine, SECONDS, lambda conn: statement(conn, items)))
    yield batch
    await batch.close(1)
    await close_engine(engine)


@pytest.fixture
async def processes(row: asyncpg.Connection, database_url: str) -> AsyncIterator[Sequence[Batcher]]:
    """Three processes, each with connections of its own."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(database_url)) for _ in range(3)]


def budgets_of(processes: Sequence[Batcher], percent: int = 40) -> list[SharedBudget]:
    return [SharedBudget(batch, URL_OF_ACCOUNT, percent) for batch in processes]


class Outcome(NamedTuple):
    """What became of many simultaneous callers."""

    granted: int
    waits: Sequence[float]  # in seconds, sorted


async def take_all(budgets: Sequence[SharedBudget], callers: int, reserve: float = 0.0) -> Outcome:
    """Let so many callers of each process ask at once."""
    asking = [budget.take(reserve) for budget in budgets for _ in range(callers)]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    waits = []
    for answer in answers:
        if answer is not None:
            assert isinstance(answer, Transient), answer
            assert (answer.code, answer.counts) == ("rate_limited", False)
            assert answer.retry_after is not None
            waits.append(answer.retry_after.total_seconds())
    return Outcome(len(answers) - len(waits), sorted(waits))


async def test_an_account_that_does_not_tell_its_limit_has_none(processes: Sequence[Batcher]) -> None:
    budgets = budgets_of(processes)

    outcome = await take_all(budgets, 100)

    assert outcome.granted == 100 * len(budgets)


@HELD
@given(
    limit=st.integers(1, 400),
    percent=st.integers(1, 100),
    rounds=st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0])), max_size=4),
    ends=st.sets(st.integers(1, 3)),
)
async def test_no_window_has_more_calls_than_its_budget(
    row: asyncpg.Connection,
    processes: Sequence[Batcher],
    limit: int,
    percent: int,
    rounds: list[tuple[int, float]],
    ends: set[int],
) -> None:
    """In any order of callers, reserves and ends of windows, from many processes at once."""
    budget = max(1, limit * percent // 100)
    await row.execute("DELETE FROM api_budgets")
    budgets = budgets_of(processes, percent)
    await budgets[0].note_limit(limit)
    windows, refused = [0], False
    for number, (callers, reserve) in enumerate(rounds):
        if number in ends:
            await row.execute("UPDATE api_budgets SET window_ends_at = now() - interval '1 second'")
            windows.append(0)
            refused = False
        outcome = await take_all(budgets, callers, reserve)
        free = 0 if refused else max(0, math.ceil(budget * (1 - reserve)) - windows[-1])
        assert outcome.granted == min(3 * callers, free)
        windows[-1] += outcome.granted
        refused = refused or (not reserve and bool(outcome.waits))

    assert max(windows) <= budget


async def test_windows_that_end_while_callers_wait_for_the_lock_have_no_more_calls(
    row: asyncpg.Connection, processes: Sequence[Batcher]
) -> None:
    """Each call is counted in the window in which it may be made, not in that in which the caller asked."""
    budgets = budgets_of(processes, percent=1)
    await budgets[0].note_limit(500)
    granted = [(await take_all(budgets[:1], 5)).granted]
    await row.execute("UPDATE api_budgets SET used = 0, window_ends_at = now() + interval '0.3 seconds'")
    async with row.transaction():
        await row.execute("SELECT FROM api_budgets FOR UPDATE")
        asking = asyncio.create_task(take_all(budgets, 5))
        while not await row.fetchval("SELECT clock_timestamp() > window_ends_at FROM api_budgets"):
            await asyncio.sleep(0.05)
    granted += [(await asking).granted, (await take_all(budgets, 5)).granted]

    assert granted == [5, 5, 0]


async def test_those_that_wait_are_spread_over_the_next_minutes(processes: Sequence[Batcher]) -> None:
    """Each minute gets as many as it can serve, so that a backlog does not ask again all at once."""
    budgets = budgets_of(processes, percent=10)
    await budgets[0].note_limit(100)
    outcome = await take_all(budgets, 15)

    assert outcome.granted == 10
    assert [math.ceil(wait / 60) for wait in outcome.waits] == [1] * 10 + [2] * 10 + [3] * 10 + [4] * 5


async def test_a_reserve_is_left_to_other_callers(processes: Sequence[Batcher]) -> None:
    budgets = budgets_of(processes, percent=50)
    await budgets[0].note_limit(40)
    low, high = await take_all(budgets, 10, reserve=0.5), await take_all(budgets, 10)

    assert (low.granted, high.granted) == (10, 10)


async def test_a_pause_of_one_process_holds_for_all(
    row: asyncpg.Connection, processes: Sequence[Batcher]
) -> None:
    budgets = budgets_of(processes)
    await take_all(budgets, 1)
    await budgets[0].pause(500)
    paused = await take_all(budgets, 1)
    await row.execute("UPDATE api_budgets SET window_ends_at = window_ends_at - interval '500 seconds'")
    resumed = await take_all(budgets, 1)

    assert paused.granted == 0
    assert max(paused.waits) <= 500
    assert min(paused.waits) > 60
    assert resumed.granted == 3


@pytest.mark.parametrize("limit", [None, 700])
async def test_a_pause_is_not_told_as_used_up_calls_of_ours(
    processes: Sequence[Batcher], limit: int | None
) -> None:
    """Another program may have used them: a higher ZENDESK_CALLS_PERCENT would make it worse."""
    budget = budgets_of(processes)[0]
    await budget.note_limit(limit or 0)
    await budget.pause(500)

    with pytest.raises(Transient) as put_off:
        await budget.take()

    assert "Zendesk" in put_off.value.message
    assert ("ZENDESK_CALLS_PERCENT" in put_off.value.message) == (limit is not None)
    assert "400000" not in put_off.value.message
    assert "asked for a pause" in put_off.value.message or limit is None


async def test_a_later_pause_does_not_shorten_an_earlier_one(processes: Sequence[Batcher]) -> None:
    budgets = budgets_of(processes)
    await asyncio.gather(*(budget.pause(seconds) for budget in budgets for seconds in (5, 500, 20)))
    await budgets[0].pause(1)
    outcome = await take_all(budgets, 1)

    assert 60 < outcome.waits[0] <= 500


@pytest.mark.parametrize(("asked", "most"), [(-5.0, 1), (0.0, 1), (1e9, MOST_PAUSE_SECONDS)])
async def test_a_pause_is_bounded(
    row: asyncpg.Connection, processes: Sequence[Batcher], asked: float, most: int
) -> None:
    await budgets_of(processes)[0].pause(asked)

    left = "SELECT extract(epoch FROM window_ends_at - clock_timestamp())::float8 FROM api_budgets"
    assert most - 60 < await row.fetchval(left) <= most


async def test_a_window_from_before_the_clock_was_set_back_ends(
    row: asyncpg.Connection, processes: Sequence[Batcher]
) -> None:
    budgets = budgets_of(processes)
    await take_all(budgets, 100)
    await row.execute("UPDATE api_budgets SET window_ends_at = now() + interval '1 day'")
    outcome = await take_all(budgets, 1)

    assert outcome.granted == 3


@pytest.mark.parametrize(("told", "known"), [(0, None), (1, 1), (2500, 2500), (999_999_999, MOST_LIMIT)])
async def test_a_limit_is_bounded(
    row: asyncpg.Connection, processes: Sequence[Batcher], told: int, known: int | None
) -> None:
    budgets = budgets_of(processes)
    await budgets[0].note_limit(told)
    outcome = await take_all(budgets[:1], 1)

    assert outcome.granted == 1
    assert await row.fetchval("SELECT max(calls_per_minute) FROM api_budgets") == known


async def test_a_limit_that_is_known_is_not_written_again(
    row: asyncpg.Connection, processes: Sequence[Batcher]
) -> None:
    version = "SELECT xmin::text FROM api_budgets"
    budgets = budgets_of(processes)
    await budgets[0].note_limit(700)
    before = await row.fetchval(version)
    for budget in (*budgets, *budgets):
        await budget.note_limit(700)

    assert await row.fetchval(version) == before


async def test_without_postgres_no_call_is_granted_and_notes_are_lost() -> None:
    async with opened("postgres://any:any@127.0.0.1:9/none?sslmode=disable") as batch:
        budget = SharedBudget(batch, URL_OF_ACCOUNT, 40)
        await budget.note_limit(700)
        await budget.pause(30)
        await budget.note_no_originals(of_account=True)
        with pytest.raises(Transient) as refused:
            await budget.take()

    assert refused.value.code == "database_unavailable"


@pytest.mark.parametrize("reason", ["account", "one e-mail"])
async def test_all_processes_learn_for_a_day_that_there_are_no_originals(
    row: asyncpg.Connection, processes: Sequence[Batcher], reason: str
) -> None:
    first, second, _ = budgets_of(processes)
    await first.take()
    known = [first.refuses_originals]
    await first.note_no_originals(of_account=reason == "account")
    known.append(first.refuses_originals)
    await second.take()
    known.append(second.refuses_originals)
    await row.execute("UPDATE api_budgets SET no_originals_at = no_originals_at - interval '1 day'")
    await second.take()
    known.append(second.refuses_originals)

    assert known == [False, True, True, False]


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://ACME.zendesk.com", "acme.zendesk.com"),
        ("https://acme.zendesk.com:443/", "acme.zendesk.com"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_an_account_is_known_by_its_host(url: str, key: str) -> None:
    assert key_of(URL(url)) == key
