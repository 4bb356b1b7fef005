"""The pace of calls: once few of Zendesk's minute are left, all workers together spread them over the rest of it."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from itertools import cycle, pairwise
from math import ceil
from time import monotonic

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.config.settings import Settings
from service.errors import Transient
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.rows import in_batches
from service.resources import Resources, open_resources
from service.zendesk.budget import Taking, take_calls
from service.zendesk.pace import MOST_DELAY, LeftOfAccount, Minute, Wait, note_calls_left, spread
from service.zendesk.rate_limit import CallsLeft, read_calls_left, read_calls_left_of, read_limit
from tests.conftest import Client, eventually, working

ACCOUNT = "acme.zendesk.com"
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
SECONDS = st.floats(-100, 100)
HEADERS = {
    "X-Rate-Limit": "200",
    "X-Rate-Limit-Remaining": "30",
    "ratelimit-limit": "200",
    "ratelimit-remaining": "30",
    "ratelimit-reset": "40",
}


# ── what the headers tell


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ratelimit-limit": None, "ratelimit-remaining": None},
        {"X-Rate-Limit": None, "X-Rate-Limit-Remaining": None},
        {"X-Rate-Limit-Remaining": "31"},
        {"X-Rate-Limit": "many"},
    ],
)
def test_either_spelling_of_the_headers_tells_what_is_left(changes: dict[str, str | None]) -> None:
    headers = {name: value for name, value in {**HEADERS, **changes}.items() if value is not None}

    assert read_calls_left(headers) == CallsLeft(200, 30, 40)


@pytest.mark.parametrize(
    "changes",
    [
        {"ratelimit-reset": None},
        {"ratelimit-reset": "0"},
        {"ratelimit-reset": "-1"},
        {"ratelimit-reset": "soon"},
        {"ratelimit-reset": "601"},
        {"ratelimit-reset": "9" * 5000},
        {"ratelimit-remaining": "201", "X-Rate-Limit-Remaining": "201"},
        {"ratelimit-remaining": "-3", "X-Rate-Limit-Remaining": "1e3"},
        {"ratelimit-remaining": "\u0663", "X-Rate-Limit-Remaining": ""},
        {"ratelimit-limit": "700"},
        {"ratelimit-limit": "0", "X-Rate-Limit": "0"},
        {"ratelimit-limit": "NaN", "X-Rate-Limit": None},
    ],
)
def test_headers_that_are_wrong_or_contradict_each_other_tell_nothing(changes: dict[str, str | None]) -> None:
    headers = {name: value for name, value in {**HEADERS, **changes}.items() if value is not None}

    assert read_calls_left(headers) is None


@given(st.dictionaries(st.sampled_from(sorted(HEADERS)), st.text() | st.integers().map(str)))
def test_no_header_breaks_a_call_or_slows_it_for_more_than_a_minute(headers: dict[str, str]) -> None:
    left = read_calls_left(headers)

    assert left is None or (0 <= left.remaining <= left.limit and 0 < left.seconds <= 60)
    assert (read_limit(headers) or 0) >= 0


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("total=10; remaining=2; resets=30", CallsLeft(10, 2, 30)),
        ("resets=30;remaining=2;total=10;more", CallsLeft(10, 2, 30)),
        ("total=10; remaining=2", None),
        ("total=10; remaining=11; resets=30", None),
        ("=" * 9000, None),
    ],
)
def test_an_endpoint_has_a_header_of_its_own(value: str, left: CallsLeft | None) -> None:
    assert read_calls_left_of("exports", {"zendesk-ratelimit-exports": value}) == left


# ── places


@given(
    calls=st.integers(-5, 300),
    seconds=st.floats(-1, 60),
    nexts=st.tuples(SECONDS | st.none(), SECONDS | st.none()),
    asked=st.integers(1, 300),
    has_reserve=st.booleans(),
)
def test_each_caller_gets_a_place_and_no_more_than_are_left_may_call(
    calls: int, seconds: float, nexts: tuple[float | None, float | None], asked: int, *, has_reserve: bool
) -> None:
    next_call, next_retry = (None if each is None else NOW + timedelta(seconds=each) for each in nexts)
    minute = Minute(NOW, NOW + timedelta(seconds=seconds), calls, next_call, next_retry)

    places = spread(minute, asked, has_reserve=has_reserve)

    assert len(places.calls) + len(places.retries) == asked
    assert len(places.calls) <= (0 if has_reserve else max(0, calls))
    assert all(NOW <= place <= NOW + MOST_DELAY for place in places.calls)
    assert [*places.calls] == sorted(places.calls)
    assert all(place <= minute.ends_at for place in places.retries)


def test_no_two_callers_have_the_same_place() -> None:
    """Neither those that may call nor those that ask again, whoever comes when."""
    minute = Minute(NOW, NOW + timedelta(seconds=60), 30, None, None)
    calls: list[datetime] = []
    retries: list[datetime] = []
    for second in range(4):
        at = NOW + timedelta(seconds=second)
        places = spread(minute._replace(at=at), 5, has_reserve=False)
        calls += places.calls
        retries += places.retries
        minute = minute._replace(next_call_at=places.next_call_at, next_retry_at=places.next_retry_at)

    for each in (calls, retries):
        gaps = [after - before for before, after in pairwise(each)]
        assert min(gaps) > timedelta(seconds=1.8), each


# ── all workers together


async def set_minute(database: asyncpg.Connection, limit: int, left: int, seconds: float) -> None:
    await database.execute(
        "INSERT INTO api_budgets (account, calls_per_minute, calls_left, resets_at, window_ends_at)"
        " VALUES ($1, $2, $3, clock_timestamp() + $4, now())",
        ACCOUNT,
        limit,
        left,
        timedelta(seconds=seconds),
    )


async def pass_seconds(database: asyncpg.Connection, seconds: float) -> None:
    times = ("window_ends_at", "resets_at", "next_call_at", "next_retry_at", "paced_since")
    changes = ", ".join(f"{name} = {name} - $1::interval" for name in times)
    await database.execute(f"UPDATE api_budgets SET {changes}", timedelta(seconds=seconds))


async def ask(res: Resources, callers: int, percent: int = 100, reserve: float = 0.0) -> list[Wait]:
    takings = [Taking(ACCOUNT, percent, reserve)] * callers
    return [Wait(*taken[:2]) for taken in await res.run(partial(take_calls, takings=takings))]


async def tell(res: Resources, limit: int, *answers: tuple[int, int, float]) -> None:
    """Note answers at the same time: calls that are left, seconds to the minute's end, and the age of the call."""
    now = monotonic()
    told = [
        LeftOfAccount(ACCOUNT, CallsLeft(limit, remaining, seconds), now - age)
        for remaining, seconds, age in answers
    ]
    await res.run(partial(note_calls_left, told=told))


@pytest.mark.parametrize(("percent", "ours"), [(100, 36), (50, 18)])
async def test_callers_that_keep_asking_get_most_of_what_is_left_and_never_more(
    percent: int, ours: int, res: Resources, database: asyncpg.Connection
) -> None:
    """Four in two hundred stay with others; of the rest, a share of what is left then."""
    await set_minute(database, 200, 40, 60)
    granted: list[float] = []
    while True:
        waits = await ask(res, 3, percent)
        left = await database.fetchval(
            "SELECT extract(epoch FROM resets_at - clock_timestamp())::float8 FROM api_budgets"
        )
        if left <= 0:
            break
        granted += [60 - left + wait.seconds for wait in waits if wait.may_call]
        await pass_seconds(database, 1)

    assert 0.8 * ours <= len(granted) <= 36
    assert len([at for at in granted if at < 20]) <= ours / 2, (
        "they are spread, and none of the first takes all"
    )


async def test_many_calls_left_are_not_slowed(res: Resources, database: asyncpg.Connection) -> None:
    await set_minute(database, 200, 50, 60)

    assert await ask(res, 20) == [Wait(0, may_call=True)] * 20


async def test_calls_are_slowed_by_those_that_were_granted_since_the_last_answer(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Their answers may be on the way."""
    await set_minute(database, 200, 50, 60)
    await ask(res, 20)

    assert not all(wait.may_call for wait in await ask(res, 20))


async def test_a_back_fill_yields_until_the_next_minute(res: Resources, database: asyncpg.Connection) -> None:
    await set_minute(database, 200, 40, 30)
    (yields,) = await ask(res, 1, reserve=0.5)
    (calls,) = await ask(res, 1)
    await pass_seconds(database, 31)
    (goes_on,) = await ask(res, 1, reserve=0.5)

    assert (yields.may_call, calls.may_call, goes_on.may_call) == (False, True, True)
    assert 25 < yields.seconds <= 30


@pytest.mark.parametrize("batch", [1, 9], ids=["one by one", "at once"])
@pytest.mark.parametrize(
    ("answers", "left", "seconds"),
    [
        ([(30, 40, 0)], 30, 40),
        ([(30, 40, 0), (31, 40, 0)], 30, 40),
        ([(30, 40, 0), (29, 39, 1)], 29, 39),
        ([(3, 40, 0), (80, 45, 5)], 3, 40),
        ([(3, 1, 0), (80, 50, 49)], 3, 1),
        ([(80, 50, 10), (3, 40, 0)], 3, 40),
        ([(30, 3, 3), (90, 60, 0)], 90, 60),
        ([(30, 23, 23), (90, 60, 0)], 90, 60),
        ([(30, 3, 20), (90, 53, 10)], 90, 53),
        ([(90, 60, 0), (2, 3, 3)], 90, 60),
        ([(90, 60, 0), (2, 50, 50)], 90, 60),
        ([(90, 60, 0), (2, 50, 45)], 2, 50),
    ],
    ids=[
        "first",
        "overtaken",
        "same minute",
        "late answer",
        "very late answer",
        "late first answer",
        "next minute",
        "next minute after a late answer",
        "late answer of the next minute",
        "answer of the minute before",
        "late answer of the minute before",
        "answer of either minute",
    ],
)
async def test_answers_may_be_late_and_overtake_each_other(
    answers: Sequence[tuple[int, int, float]],
    left: int,
    seconds: int,
    batch: int,
    res: Resources,
    database: asyncpg.Connection,
) -> None:
    await set_minute(database, 200, 200, -100)
    for told in in_batches(answers, batch):
        await tell(res, 200, *told)

    row = await database.fetchrow(
        "SELECT calls_left, extract(epoch FROM resets_at - clock_timestamp())::float8 AS seconds FROM api_budgets"
    )
    assert row is not None
    assert row["calls_left"] == left
    assert seconds - 30 < row["seconds"] <= seconds


async def test_an_answer_is_as_old_as_its_call(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """While it came, other answers told that fewer calls are left."""
    zendesk.state.api_headers.update(HEADERS)
    zendesk.state.api_faults.append(Fault(delay_seconds=3))
    call = asyncio.create_task(res.zendesk.get("/api/v2/users/me.json"))

    async def is_sent() -> bool:
        return zendesk.state.api_calls > 0

    await eventually(is_sent)
    await database.execute(
        "UPDATE api_budgets"
        " SET calls_per_minute = 200, calls_left = 3, resets_at = clock_timestamp() + interval '40 s'"
    )
    await call

    assert await database.fetchval("SELECT calls_left FROM api_budgets WHERE calls_per_minute = 200") == 3


async def test_a_raised_limit_counts_from_the_next_minute(
    res: Resources, database: asyncpg.Connection
) -> None:
    await set_minute(database, 200, 3, 40)
    await tell(res, 700, (503, 39, 0))
    (slowed,) = await ask(res, 1)
    await pass_seconds(database, 40)
    await tell(res, 700, (699, 60, 0))
    (goes_on,) = await ask(res, 1)

    assert (slowed.may_call, goes_on) == (False, Wait(0, may_call=True))


class Minutes:
    """Zendesk's counter, at the end of a minute and in the next one; others use a part of that at once."""

    def __init__(self, at: float, left: int, others: int) -> None:
        self.ends_at, self.left, self._next = at + 20, left, 200 - others
        self.used = [0]

    def call(self, at: float) -> tuple[int, int]:
        """Count a call; return what its answer tells: the calls that are left, and the seconds to the end."""
        if at >= self.ends_at:
            self.ends_at, self.left = self.ends_at + 60, self._next
            self.used.append(0)
        self.left -= 1
        self.used[-1] += 1
        return max(0, self.left), ceil(self.ends_at - at)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    left=st.integers(20, 48),
    others=st.integers(100, 150),
    delays=st.lists(st.sampled_from([0.1, 2, 8, 25, 50]), max_size=3),
)
async def test_whichever_answers_are_late_no_call_is_refused_and_most_are_made(
    left: int, others: int, delays: list[float], res: Resources, database: asyncpg.Connection
) -> None:
    """Callers ask for more than is left; at least one answer in four comes at once."""
    await database.execute("DELETE FROM api_budgets")
    await set_minute(database, 200, left, 20)
    passed, clock = 0, "SELECT extract(epoch FROM clock_timestamp())::float8"
    began = await database.fetchval(clock)
    zendesk, delay = Minutes(began, left, others), cycle([*delays, 0.1])
    calls: list[float] = []
    answers: list[tuple[float, float, int, int]] = []  # when it comes, when its call was sent, what it tells
    while (now := passed + await database.fetchval(clock)) < began + 80:
        while calls and calls[0] <= now:
            sent_at = heappop(calls)
            heappush(answers, (sent_at + next(delay), sent_at, *zendesk.call(sent_at)))
        while answers and answers[0][0] <= now:
            _, sent_at, remaining, seconds = heappop(answers)
            await tell(res, 200, (remaining, seconds, now - sent_at))
        for wait in await ask(res, 6):
            if wait.may_call:
                heappush(calls, now + wait.seconds)
        await pass_seconds(database, 1)
        passed += 1

    assert zendesk.left >= 0
    assert 0.75 * (left - 4) <= zendesk.used[0] <= left
    assert 0.75 * (200 - others - 4) <= zendesk.used[1]


async def test_a_minute_from_before_the_clock_was_set_back_slows_nothing(
    res: Resources, database: asyncpg.Connection
) -> None:
    await set_minute(database, 200, 1, 86_400)
    waits = await ask(res, 1)
    await tell(res, 200, (40, 30, 0))

    assert waits == [Wait(0, may_call=True)]
    assert await database.fetchval("SELECT resets_at < now() + interval '31 seconds' FROM api_budgets")


async def test_the_log_tells_once_that_calls_are_slowed_and_that_they_are_no_longer(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Minutes with few calls, one after the other, are one time."""
    await set_minute(database, 200, 40, 50)
    with capture_logs() as lines:
        for _ in range(3):
            for _ in range(3):
                await ask(res, 1)
            await pass_seconds(database, 55)
            await tell(res, 200, (40, 50, 0))
        await pass_seconds(database, 200)
        await ask(res, 1)
        await ask(res, 1)

    assert [line["event"] for line in lines if line["event"].startswith("zendesk_calls")] == [
        "zendesk_calls_slowed",
        "zendesk_calls_not_slowed",
    ]


async def test_all_processes_slow_down_after_the_answer_to_one(
    settings: Settings, res: Resources, zendesk: Zendesk
) -> None:
    zendesk.state.api_headers.update({**HEADERS, "ratelimit-remaining": "10", "X-Rate-Limit-Remaining": "10"})
    async with open_resources(settings) as other:
        await res.zendesk.get("/api/v2/users/me.json")
        with pytest.raises(Transient) as refused:
            await other.zendesk.get("/api/v2/users/me.json", reserve=0.5)

    assert (refused.value.code, refused.value.counts) == ("rate_limited", False)
    assert zendesk.state.api_calls == 1


async def test_exports_slow_down_by_a_header_of_their_own(res: Resources, zendesk: Zendesk) -> None:
    """Other programs use the exports, too; all other calls go on."""
    header = "zendesk-ratelimit-incremental-exports"
    zendesk.state.api_headers[header] = "total=10; remaining=0; resets=30"
    path, query = "/api/v2/incremental/ticket_events.json", {"start_time": "1", "per_page": "10"}
    await res.zendesk.export(path, query)
    with pytest.raises(Transient) as refused:
        await res.zendesk.export(path, query)
    await res.zendesk.get("/api/v2/users/me.json")

    assert refused.value.code == "rate_limited"
    assert zendesk.state.calls == {"ticket_events": 1, "users/me": 1}


async def test_three_workers_meet_no_429_beside_other_programs(
    client: Client, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Other programs leave less than a fourth of the account's minute, which is short here."""
    settings = settings.model_copy(update={"zendesk_calls_percent": 100})
    zendesk.state.calls_per_minute, zendesk.state.minute_seconds = 60, 3
    comments = [zendesk.add_email(number) for number in range(1, 17)]
    for number, comment in enumerate(comments, 1):
        await client.send(zendesk.announcement(number, comment))
    for _ in range(46):
        zendesk.state.take_call()

    async with open_resources(settings) as res, AsyncExitStack() as stack:
        await res.zendesk.get("/api/v2/users/me.json")
        for _ in range(3):
            await stack.enter_async_context(working(settings))
        await eventually(partial(all_completed, database, len(comments)))

    assert zendesk.state.refused_calls == 0
    assert await database.fetchval("SELECT sum(retry_count) FROM incoming_emails") == 0
    assert zendesk.state.calls["comments"] == len(comments)


async def all_completed(database: asyncpg.Connection, number: int) -> bool:
    found = await database.fetchval(
        "SELECT count(*) FROM incoming_emails WHERE processing_status = 'completed'"
    )
    return bool(found == number)
