"""The use of Zendesk's API, as the overview, the API and the metrics show it."""

import asyncpg
import pytest

from service.checks.postgres import check_calls
from service.config.settings import Settings
from service.resources import Resources
from tests.conftest import Server
from tests.support.commands import typed
from tests.support.connections import metric
from tests.support.pages import read, words_of


async def insert_use(
    client: Server, database: asyncpg.Connection, used: int, limit: int | None, left: str
) -> None:
    await database.execute(
        "INSERT INTO api_budgets (account, window_ends_at, used, calls_per_minute)"
        " VALUES ($1, now() + $2::text::interval, $3, $4)",
        client.zendesk.url.removeprefix("http://"),
        left,
        used,
        limit,
    )


@pytest.mark.parametrize(
    ("used", "limit", "left", "shown", "words", "remaining"),
    [
        (12, 200, "5 minutes", (80, 12, 0), "12 of 80 in this minute", 68),
        (80, 200, "5 minutes", (80, 80, 0), "80 of 80 in this minute", 0),
        (1_080, 200, "5 minutes", (80, 80, 1_000), "80 of 80 in this minute, 1,000 put off", 0),
        (1_080, 200, "-1 seconds", (80, 0, 0), "0 of 80 in this minute", 80),
        (7, None, "5 minutes", (400_000, 7, 0), "7 in this minute", 399_993),
    ],
)
async def test_the_use_of_this_minute_is_shown(
    client: Server,
    database: asyncpg.Connection,
    used: int,
    limit: int | None,
    left: str,
    shown: tuple[int, int, int],
    words: str,
    remaining: int,
) -> None:
    await insert_use(client, database, used, limit, left)

    use = (await client.get("/api/v1/overview"))["api_use"]
    assert (use["budget"], use["used"], use["waiting"]) == shown
    assert use["limit"] == limit
    assert (use["seconds_left"] is None) == left.startswith("-")
    assert f"Calls to Zendesk {words}" in words_of(await read(client, "/"))
    assert await metric(client, "holdfast_zendesk_budget_remaining") == remaining


async def test_a_pause_is_no_number_of_calls_while_the_limit_is_unknown(
    client: Server, database: asyncpg.Connection
) -> None:
    await insert_use(client, database, 400_003, None, "5 minutes")

    assert "Calls to Zendesk paused, as Zendesk asked for it, 3 put off" in words_of(await read(client, "/"))


async def test_slowed_calls_are_shown(
    client: Server, database: asyncpg.Connection, settings: Settings, res: Resources
) -> None:
    await insert_use(client, database, 12, 200, "1 minute")
    await database.execute(
        "UPDATE api_budgets SET calls_left = 30, resets_at = now() + interval '59 seconds'"
    )

    overview = await client.get("/api/v1/overview")
    use, page = overview["api_use"], words_of(await read(client, "/"))
    shown = await typed(settings, "status")
    check = await check_calls(res)

    assert use["left"] == 30
    assert 0 < use["slowed_seconds"] < 60
    assert check.ok is None
    for text in (page, " ".join(shown.stdout.split()), check.found):
        assert "Zendesk has 30 of 200 left for all programs" in text
        assert "slowed for " in text


async def test_nothing_is_shown_before_the_first_call(client: Server) -> None:
    assert (await client.get("/api/v1/overview"))["api_use"] is None
    assert "Calls to Zendesk" not in words_of(await read(client, "/"))
