"""Pages without script show times in the reader's zone, and name it."""

from datetime import UTC, datetime

import asyncpg
import pytest

from tests.conftest import Server
from tests.support.pages import asking, read, words_of
from tests.support.rows import NOON, add, add_failed, add_quarantined_body

BERLIN = "3 Nov 2025, 13:00:00 CET"


async def test_a_chosen_zone_is_kept_in_a_cookie_and_names_itself(
    client: Server, database: asyncpg.Connection
) -> None:
    number = await add_quarantined_body(database)
    path = f"/quarantine/{number}"
    before = await read(client, path)
    async with asking(client, "/zone?zone=Europe/Berlin") as response:
        cookie = response.headers["Set-Cookie"]
    chosen = cookie.partition(";")[0]
    after = await read(client, path, Cookie=chosen)
    told = await read(client, path, Cookie="holdfast_browser_zone=Asia/Tokyo")
    both = await read(client, path, Cookie=f"holdfast_browser_zone=Asia/Tokyo; {chosen}")
    other = await read(client, path)

    assert NOON.isoformat() == "2025-11-03T12:00:00+00:00"
    assert "HttpOnly" not in cookie, "the script reads it"
    assert "3 Nov 2025, 12:00:00 UTC" in before
    assert ("Times in UTC" in words_of(before), "Times in Europe/Berlin" in words_of(after)) == (True, True)
    assert (BERLIN in after, BERLIN in both) == (True, True)
    assert "3 Nov 2025, 21:00:00 JST" in told
    assert before == other or "UTC" in other, "the zone of one reader is not that of the next"


async def test_the_overview_is_drawn_once_and_shown_in_each_zone(
    client: Server, database: asyncpg.Connection
) -> None:
    await add_failed(database, "1 hour")
    utc = await read(client, "/")
    berlin = await read(client, "/", Cookie="holdfast_zone=Europe/Berlin")

    assert (" UTC</time>" in utc or ' UTC"' in utc, " CET" in utc) == (True, False)
    assert " CET" in berlin


async def test_a_date_at_the_end_of_time_is_shown_in_utc(
    client: Server, database: asyncpg.Connection
) -> None:
    """Senders choose the date of an e-mail, and Tokyo is ahead of it."""
    await add(database, sent_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))

    page = await read(client, "/emails", Cookie="holdfast_zone=Asia/Tokyo")

    assert "31 Dec 9999, 23:59:59 UTC" in page


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "Nowhere/City", "x" * 3000, "\u202e", "Etc/GMT+5", "UTC"]
)
async def test_a_zone_that_is_none_is_utc(client: Server, name: str) -> None:
    page = await read(client, "/zone", Cookie=f"holdfast_zone={name}")

    assert "Times on pages are in UTC" in words_of(page)
    if name != "UTC":
        async with asking(client, f"/zone?zone={name[:100]}") as response:
            assert (response.status, "Set-Cookie" in response.headers) == (400, False)
