"""`holdfast backfill`: searches Zendesk with or without a worker, and goes on after a kill."""

import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from tests.conftest import eventually, program, working
from tests.support.backfill import comments, last_run, without_pause
from tests.support.commands import command, terminal

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def old(zendesk: Zendesk) -> list[int]:
    """E-mails of which nothing is hidden; return their comments."""
    zendesk.state.listings.hidden_seconds = 0
    now = datetime.now(UTC)
    return [zendesk.add_email(days, created_at=now - timedelta(days=days)) for days in (1, 2, 20)]


async def test_without_a_worker_the_command_does_all(
    settings: Settings, database: asyncpg.Connection, old: list[int]
) -> None:
    """Without a time: the last seven days."""
    told = await command(settings, "backfill")

    assert (told.returncode, await comments(database)) == (0, [str(number) for number in old[:2]])
    assert told.stdout.startswith("2 e-mails in Zendesk from ")
    assert ", 2 of them new; 1 call." in told.stdout
    assert "0 e-mails found, 0 new, 0 calls, by events" in told.stderr
    assert "No worker is alive" in told.stderr


async def test_a_range_is_searched_and_json_printed(
    settings: Settings, database: asyncpg.Connection, old: list[int]
) -> None:
    since, until = (f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT%H:%M}" for days in (30, 10))
    told = await command(settings, "backfill", "--since", since, "--until", until, "--json")
    view = json.loads(told.stdout)

    assert (told.returncode, told.stderr) == (0, "")
    assert (view["found"], view["added"], view["error_code"], view["dry_run"]) == (1, 1, None, False)
    assert await comments(database) == [str(old[2])]
    assert (await last_run(database))["actor"].endswith("(command line)")


async def test_a_second_that_was_left_out_is_said(settings: Settings, zendesk: Zendesk) -> None:
    second = datetime.now(UTC).replace(microsecond=0) - timedelta(days=200)
    zendesk.state.listings.most_per_page = 3
    for number in range(5):
        zendesk.add_email(number, created_at=second)

    told = await command(settings, "backfill", "--since", "2020-01-01")

    assert told.returncode == 0
    assert f"Of the second {second:%Y-%m-%d %H:%M:%S} UTC, Zendesk's export gave only a part" in told.stdout


async def test_a_dry_run_records_no_e_mail(settings: Settings, database: asyncpg.Connection) -> None:
    told = await command(settings, "backfill", "--since", "2020-01-01", "--dry-run")

    assert told.returncode == 0
    assert "3 of them would be new" in told.stdout
    assert await comments(database) == []


async def test_a_worker_may_do_the_work(
    settings: Settings, database: asyncpg.Connection, old: list[int]
) -> None:
    async with working(settings):
        told = await command(settings, "backfill", "--since", "2020-01-01")

    assert told.returncode == 0
    assert await comments(database) == [str(number) for number in old]


async def test_a_search_that_ends_with_an_error_exits_with_3(
    settings: Settings, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    zendesk.state.api_faults += [Fault(status=400) for _ in range(5)]

    told = await command(settings, "backfill")

    assert told.returncode == 3
    assert told.stdout.startswith("The search ended with the error unexpected_status. 0 e-mails")


async def test_a_terminal_shows_a_bar_and_the_end(settings: Settings, database: asyncpg.Connection) -> None:
    code, screen = await terminal(settings, "backfill", columns=120)

    assert code == 0
    assert "2 e-mails in Zendesk from" in screen


async def test_after_a_kill_the_same_command_goes_on(
    settings: Settings, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    zendesk.state.listings.most_per_page = 3
    begin = datetime.now(UTC).replace(microsecond=0) - 2 * HOUR
    made = [zendesk.add_email(9, created_at=begin + timedelta(seconds=number)) for number in range(12)]
    zendesk.state.api_faults += [Fault(), Fault(), Fault(delay_seconds=60)]

    async def stops() -> bool:
        return zendesk.state.calls["ticket_events"] == 3

    async with program("service", "backfill", "--since", "2026-01-01", settings=settings) as process:
        await eventually(stops)
        process.kill()
    first = await last_run(database)
    await without_pause(database, zendesk)
    told = await command(settings, "backfill", "--since", "2026-01-01")
    last = await last_run(database)

    assert first["finished_at"] is None
    assert told.returncode == 0
    assert (last["id"], last["added"], last["error_code"]) == (first["id"], 15, None)
    assert {str(number) for number in made} <= {*await comments(database)}


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--until", "2026-01-01"], 2, "--until needs an earlier --since"),
        (["--since", "2026-01-02", "--until", "2026-01-01"], 2, "--until needs an earlier --since"),
        (["--since", "soon"], 2, "--since"),
    ],
)
async def test_wrong_options_are_refused(
    settings: Settings, database: asyncpg.Connection, words: list[str], code: int, reason: str
) -> None:
    told = await command(settings, "backfill", *words)

    assert (told.returncode, reason in told.stderr) == (code, True)


async def test_without_credentials_it_says_what_to_set(
    settings: Settings, database: asyncpg.Connection
) -> None:
    without = settings.model_copy(
        update={"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None}
    )

    told = await command(without, "backfill", ZENDESK_OAUTH_CLIENT_ID="", ZENDESK_OAUTH_CLIENT_SECRET="")

    assert told.returncode == 1
    assert "ZENDESK_OAUTH_CLIENT_ID" in told.stderr
