"""`holdfast complete`: its exit code, its table, and the list of a day."""

import json
from datetime import timedelta

import asyncpg
import pytest

from service.config.settings import Settings
from tests.support.commands import terminal, typed
from tests.support.source import (
    ACCOUNT_ID,
    account_key,
    add_source,
    asking,
    keep,
    list_comment,
    noon,
    refuse,
    today,
)

HOSTILE = "\x1b]0;x\x07\u202eoffer"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return asking(settings)


async def test_exit_code_is_0_only_if_all_is_known_and_kept(
    settings: Settings, database: asyncpg.Connection
) -> None:
    account, day = account_key(settings), await today(database)
    unknown = await typed(settings, "complete")
    await add_source(database, account)
    await list_comment(database, account, "1", "1", noon(day))
    missing = await typed(settings, "complete")
    await keep(database, "1", "1", "queued")
    in_work = await typed(settings, "complete")
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed'")
    kept = await typed(settings, "complete")
    await refuse(database, account, "9", noon(day))
    refused = await typed(settings, "complete")
    off = await typed(settings, "complete", BACKFILL_MINUTES="0")

    codes = [done.returncode for done in (unknown, missing, in_work, kept, refused, off)]
    assert codes == [3, 3, 3, 0, 3, 3]
    assert f"{day}\t1\t1\t0\t0\t0\t1\t0\t" in refused.stdout
    assert kept.stdout.startswith("Every e-mail that Zendesk has since ")
    assert f"{day}\t1\t1\t0\t0\t0\t0\t" in kept.stdout
    assert off.stdout.startswith("Back-fill is off: BACKFILL_MINUTES is 0.")


async def test_a_day_lists_what_is_missing_or_failed(
    settings: Settings, database: asyncpg.Connection
) -> None:
    account, day = account_key(settings), await today(database) - timedelta(days=1)
    await add_source(database, account)
    for number in range(1, 4):
        await list_comment(database, account, "48100", str(number), noon(day))
    await keep(database, "48100", "1")
    failed = await keep(database, "48100", "2", "failed", subject=HOSTILE, error_code="gone")

    done = await typed(settings, "complete", "--day", day.isoformat())
    listed = json.loads((await typed(settings, "complete", "--day", day.isoformat(), "--json")).stdout)
    await database.execute("DELETE FROM source_emails WHERE comment_id <> '1'")
    clean = await typed(settings, "complete", "--day", day.isoformat())
    unsearched = await typed(settings, "complete", "--day", "2020-01-01")

    assert done.returncode == 3
    assert f"{day}: All of this day was searched at Zendesk: 1 e-mail missing, 1 failed.\n" in done.stdout
    assert clean.stdout.startswith(f"{day}: Every e-mail that Zendesk has of this day is kept.\n")
    assert unsearched.stdout.startswith("2020-01-01: This day was not searched at Zendesk yet.\n")
    assert f"failed\t48100\t2\t{day} 12:00:00 UTC\t{failed}\tgone\t\ufffd]0;x\ufffd\ufffdoffer" in done.stdout
    assert f"missing\t48100\t3\t{day} 12:00:00 UTC\t\t\t\n" in done.stdout
    assert [each["comment_id"] for each in listed["emails"]] == ["2", "3"]
    assert (clean.returncode, unsearched.returncode) == (0, 3)


async def test_a_long_list_is_read_to_its_limit(settings: Settings, database: asyncpg.Connection) -> None:
    account, day = account_key(settings), await today(database) - timedelta(days=1)
    await add_source(database, account)
    await database.execute(
        "INSERT INTO source_emails (account, ticket_id, comment_id, created_at)"
        " SELECT $1, '1', i::text, $2 FROM generate_series(1, 250) AS i",
        account,
        noon(day),
    )

    everything = await typed(settings, "complete", "--day", day.isoformat(), "--json")
    some = await typed(settings, "complete", "--day", day.isoformat(), "--limit", "120")

    assert len(json.loads(everything.stdout)["emails"]) == 250
    assert some.stdout.count("missing\t") == 120
    assert "There are more: raise --limit." in some.stderr


@pytest.mark.parametrize("words", [("--day", "31.1."), ("--before", "1"), ("--list", "other")])
async def test_a_wrong_option_is_a_usage_error(settings: Settings, words: tuple[str, ...]) -> None:
    done = await typed(settings, "complete", *words)

    assert (done.returncode, words[0] in done.stderr) == (2, True)


async def test_a_terminal_shows_a_table(settings: Settings, database: asyncpg.Connection) -> None:
    account, day = account_key(settings), await today(database)
    await add_source(database, account)
    await list_comment(database, account, "1", "1", noon(day))
    await keep(database, "1", "1", account_id=ACCOUNT_ID)

    code, screen = await terminal(settings, "complete", columns=80)

    assert code == 0
    assert "day" in screen
    assert "in Zendesk" in screen
    assert "is searched by its export of events." in screen
