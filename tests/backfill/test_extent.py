"""The time of which all e-mails are known: more after each search, never over a time that no search has read."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.backfill import requests
from service.backfill.extent import Known, Searched, extended
from service.backfill.legs import LISTED
from service.backfill.record import History
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from tests.support.backfill import comments, last_run, make_due, search, source

HOUR = timedelta(hours=1)


def day(number: int) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=number)


def ago(days: int) -> datetime:
    return (datetime.now(UTC) - timedelta(days=days)).replace(microsecond=0)


STALE = Known(day(100), day(200))  # and nobody searched since
QUIET = Known(day(100), day(200), searched_until=day(329))  # and nothing happened since
CASES = {
    "the first": (Known(), Searched(day(10), day(20), is_endless=True), (10, 20)),
    "the first by the list": (
        Known(),
        Searched(day(10), day(220), is_endless=True, listed_since=day(230)),
        (230, 230),
    ),
    "the first, of a past that the list has no longer": (
        Known(),
        Searched(day(10), day(20), is_endless=False, listed_since=day(230)),
        (None, None),
    ),
    "the next": (STALE, Searched(day(200), day(330), is_endless=True), (100, 330)),
    "the next with a hole": (
        STALE,
        Searched(day(200), day(330), is_endless=True, left_out=day(210)),
        (210, 330),
    ),
    "a hole that showed up late": (
        QUIET,
        Searched(day(200), day(330), is_endless=True, left_out=day(210)),
        (210, 330),
    ),
    "the list after an outage": (
        STALE,
        Searched(day(200), day(330), is_endless=True, listed_since=day(230)),
        (230, 330),
    ),
    "the list after an outage, and nothing happened since": (
        STALE,
        Searched(day(200), day(200), is_endless=True, listed_since=day(230)),
        (230, 230),
    ),
    "the list after a quiet time": (
        QUIET,
        Searched(day(200), day(330), is_endless=True, listed_since=day(230)),
        (100, 330),
    ),
    "the list in a quiet time": (
        QUIET,
        Searched(day(200), day(200), is_endless=True, listed_since=day(230)),
        (100, 230),
    ),
    "history with a hole before": (
        STALE,
        Searched(day(0), day(330), is_endless=True, left_out=day(50)),
        (50, 330),
    ),
    "history with a hole within": (
        STALE,
        Searched(day(0), day(330), is_endless=True, left_out=day(150)),
        (100, 330),
    ),
    "history by the list after an outage": (
        STALE,
        Searched(day(0), day(330), is_endless=True, listed_since=day(230)),
        (230, 330),
    ),
    "history that ends, and meets": (STALE, Searched(day(0), day(120), is_endless=False), (0, 200)),
    "history that ends before": (STALE, Searched(day(0), day(90), is_endless=False), (100, 200)),
    "history that begins behind": (STALE, Searched(day(210), day(330), is_endless=True), (100, 200)),
    "history that ends, with a hole": (
        STALE,
        Searched(day(0), day(300), is_endless=False, left_out=day(210)),
        (100, 200),
    ),
}


@pytest.mark.parametrize(("known", "searched", "expected"), CASES.values(), ids=CASES)
def test_a_search_adds_what_meets_the_known_range(
    known: Known, searched: Searched, expected: tuple[int | None, int | None]
) -> None:
    after = extended(known, searched)

    assert (after.complete_since, after.watermark) == tuple(
        None if number is None else day(number) for number in expected
    )


async def pause(database: asyncpg.Connection, days: int) -> None:
    """Let the last search be so long ago, of an account that is known since 70 days before that."""
    await database.execute("UPDATE backfills SET started_at = $1, finished_at = $1", ago(days))
    await database.execute(
        "UPDATE sources SET watermark = $1, complete_since = $2, due_at = now()", ago(days), ago(days + 70)
    )


async def test_a_current_search_that_leaves_out_a_second_goes_on_behind_it(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Workers were off for 130 days; a second 120 days ago has more than a page, and the list does not reach it."""
    zendesk.state.listings.most_per_page = 5
    await search(res, database, zendesk)
    await pause(database, 130)
    full = ago(120)
    for number in range(2, 22):
        zendesk.add_email(number, created_at=full)
    newest = ago(1)
    zendesk.add_email(50, created_at=newest)

    await search(res, database, zendesk)
    found, run = await source(database), await last_run(database)

    behind = full + timedelta(seconds=1)
    assert (found["complete_since"], found["left_out"], found["watermark"]) == (behind, behind, newest)
    assert (run["since"] < full, run["error_code"], found["error_code"]) == (True, None, None)


@pytest.mark.parametrize("was_off", [True, False])
async def test_a_current_search_by_the_list_keeps_what_was_searched_without_a_break(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, *, was_off: bool
) -> None:
    """The newest change was 130 days ago: the list may have lost others since, but only if workers were off."""
    zendesk.state.listings.closed = 403
    await search(res, database, zendesk)
    await pause(database, 130)
    if not was_off:
        await database.execute("UPDATE backfills SET started_at = $1, finished_at = $1", ago(40))
    known = await source(database)
    newest = ago(1)
    zendesk.add_email(1, created_at=newest)
    await make_due(database, hourly=True)

    await search(res, database, zendesk)
    found = await source(database)

    assert found["watermark"] == newest
    if was_off:
        assert abs(found["complete_since"] - (datetime.now(UTC) - LISTED)) < timedelta(minutes=5)
    else:
        assert found["complete_since"] == known["complete_since"]


async def test_the_run_that_says_until_when_was_searched_is_kept(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Runs are forgotten after a month: the newest that found all is not, though later ones failed."""
    for _ in range(2):
        await make_due(database)
        await search(res, database, zendesk)
    await database.execute("UPDATE backfills SET finished_at = now() - interval '40 days'")
    await database.execute(
        "INSERT INTO backfills (account, kind, since, leg, finished_at, error_code)"
        " SELECT account, 'current', now(), 'events', now() - interval '39 days', 'forbidden' FROM sources"
    )
    await database.execute("UPDATE sources SET due_at = now() + interval '1 hour', suspended_at = NULL")

    await search(res, database, zendesk)
    rows = await database.fetch("SELECT id FROM backfills")

    assert [row["id"] for row in rows] == [2]


async def test_history_heals_a_time_that_was_not_searched(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The export has it, once it is open."""
    zendesk.state.listings.closed = 403
    await search(res, database, zendesk)
    await pause(database, 130)
    missed = zendesk.add_email(1, created_at=ago(110))
    zendesk.add_email(2, created_at=ago(1))
    await search(res, database, zendesk)
    zendesk.state.listings.closed = None
    await database.execute("UPDATE sources SET leg_since = now() - interval '25 hours'")
    await make_due(database)
    await search(res, database, zendesk)
    wanted = History(ago(131), None, dry_run=False)

    await requests.begin(res, wanted, "grace")
    await search(res, database, zendesk)

    assert str(missed) in await comments(database)
    assert (await source(database))["complete_since"] == wanted.since
