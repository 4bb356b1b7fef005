"""The page Complete: its words and numbers, hostile content, a phone, and a real Chromium."""

import re
from datetime import date, timedelta
from html import unescape
from pathlib import Path

import asyncpg
import pytest
from playwright.async_api import Browser, expect

from service.config.settings import Settings
from tests.conftest import API_TOKEN, Server
from tests.support.browser import PATIENCE, needs_chromium, sign_in
from tests.support.pages import HOSTILE, press, read, words_of
from tests.support.pages import asking as asking_page
from tests.support.rows import add
from tests.support.source import (
    account_key,
    add_source,
    asking,
    keep,
    list_comment,
    noon,
    refuse,
    say,
    suspend,
    today,
)

TEXT = f"{HOSTILE}\n</script><iframe src=//evil.example></iframe>{{{{ 7 * 7 }}}}"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return asking(settings)


@pytest.fixture
async def day(settings: Settings, database: asyncpg.Connection) -> date:
    """Let Zendesk list some e-mails of yesterday, hold suspended ones, and change one; all texts are hostile."""
    account, now = account_key(settings), noon(await today(database))
    yesterday = now - timedelta(days=1)
    await add_source(
        database, account, leg="lists", leg_reason="forbidden", error_code="http_503", error=HOSTILE
    )
    await add(
        database,
        "backfills",
        account=account,
        kind="history",
        leg="events",
        since=now - timedelta(days=9),
        until=now,
        reached=now - timedelta(days=3),
        found=12_345,
    )
    for number in range(1, 8):
        await list_comment(database, account, "48100", str(number), yesterday)
    for number, status in enumerate(("completed", "completed", "completed", "queued", "failed"), 1):
        await keep(
            database,
            "48100",
            str(number),
            status,
            subject=HOSTILE,
            from_email=HOSTILE,
            error_code=HOSTILE if status == "failed" else None,
            zendesk_state="redacted" if number == 1 else None,
            origin="backfill" if number == 2 else "webhook",
            received_at=yesterday,
        )
    await say(database, 2, "2", subject=HOSTILE, created_at=yesterday)
    await suspend(
        database,
        account,
        1,
        created_at=yesterday,
        text=TEXT,
        **dict.fromkeys(("subject", "from_name", "from_address", "cause"), HOSTILE),
    )
    await add(
        database,
        "connections",
        account=account,
        endpoint="https://x.example",
        webhook_id="w",
        trigger_id="t",
        condition="mail",
        drift='[{"code": "trigger_changed", "text": "The trigger <b>changed</b>"}]',
    )
    return yesterday.date()


async def test_without_a_search_the_page_says_how_it_begins(client: Server) -> None:
    page = words_of(await read(client, "/complete"))

    assert "Zendesk was not asked yet." in page
    assert "No days yet" in page


async def test_the_page_says_what_is_known(client: Server, day: date) -> None:
    page = await read(client, "/complete")
    words = words_of(page)

    assert "2 e-mails that Zendesk has are missing here, and 1 failed. Checked 1 min ago." in words
    assert "Since then the search fails: http_503." in words
    assert "The search of its history is running, 67%: 12,345 e-mails found, 0 new, 0 calls." in words
    assert f"{day:%-d %b %Y} 7 3 1 1 2 0 1 0" in words
    assert f'href="/complete?day={day}&amp;account=127.0.0.1%3A' in page
    assert "Lost webhooks" in words
    assert "redacted in Zendesk, ticket 48100; our copy stays" in words
    assert "The trigger <b>changed</b> trigger_changed" in words


async def test_the_page_names_tickets_that_could_not_be_read(
    client: Server, settings: Settings, database: asyncpg.Connection, day: date
) -> None:
    await refuse(database, account_key(settings), "48101", noon(day), error=HOSTILE)

    words, of_day = (
        words_of(await read(client, "/complete")),
        words_of(await read(client, f"/complete?day={day}")),
    )

    assert "Could not be read Ticket 48101" in words
    assert (
        "1 ticket could not be read, such as 48101: give the user of the credentials access to them" in words
    )
    assert f"{day:%-d %b %Y} 1 ticket not read 7 3 1" in words
    assert "Tickets not read 1" in of_day


@pytest.mark.parametrize(
    ("name", "rows"),
    [("open", 3), ("missing", 2), ("failed", 1), ("in_work", 1), ("kept", 3), ("in_zendesk", 7)],
)
async def test_each_number_has_its_list(client: Server, day: date, name: str, rows: int) -> None:
    page = await read(client, f"/complete?day={day}&list={name}")

    assert page.count("<tr>") == rows + 1
    assert words_of(page).count("Comment") == 1 + {"open": 2, "missing": 2, "in_zendesk": 2}.get(name, 0)


async def test_text_of_strangers_is_text(client: Server, day: date) -> None:
    for path in ("/complete", f"/complete?day={day}&list=in_zendesk", "/emails/1"):
        page = await read(client, path)

        assert "\u202e" not in page
        assert "\x07" not in page
        assert not re.search("<(img src=x|iframe|script>)", page)
        assert "<script>alert(1)</script>" in unescape(page)
    assert "{{ 7 * 7 }}" in words_of(await read(client, "/complete"))


async def test_a_wrong_address_is_refused(client: Server) -> None:
    for query in ("day=x", "list=all", "before=9", "cursor=1", "other=1"):
        await read(client, f"/complete?{query}", status=400)


async def test_older_days_have_a_page(
    client: Server, settings: Settings, database: asyncpg.Connection, day: date
) -> None:
    old = day - timedelta(days=200)
    await list_comment(database, account_key(settings), "1", "old", noon(old))

    first = await read(client, "/complete")
    older = re.findall(r'href="(/complete\?before=[0-9-]+)"', first)
    second = words_of(await read(client, older[0]))

    assert len(older) == 1
    assert f"{old:%-d %b %Y} not searched yet 1 0 0 0 1" in second
    assert "Suspended e-mails" not in second


# ── in Chromium


@needs_chromium
async def test_the_page_fits_and_nothing_on_it_runs(
    browser: Browser, client: Server, day: date, tmp_path: Path
) -> None:
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    context.on("dialog", lambda dialog: complaints.append(dialog.message))
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda message: complaints.append(message.text))
    page = await context.new_page()
    await sign_in(page, client.url, "Mara", API_TOKEN)
    for width in (390, 1280):
        await page.set_viewport_size({"width": width, "height": 860})
        for name, path in (("complete", "/complete"), ("day", f"/complete?day={day}&list=in_zendesk")):
            await page.goto(client.url + path)
            await expect(page.locator("h1").first).to_be_visible()
            for theme in ("light", "dark"):
                await page.emulate_media(color_scheme=theme)
                await page.screenshot(path=tmp_path / f"{name}.{width}.{theme}.png", full_page=True)
                assert await page.evaluate("document.documentElement.scrollWidth") <= width, (path, theme)
        await page.goto(f"{client.url}/complete")
        await page.get_by_role("link", name="2", exact=True).first.click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text(str(day.year))
        await expect(page.get_by_text("Comment 6 of ticket 48100")).to_be_visible()
    await context.close()

    assert complaints == []


async def test_there_is_no_search_after_the_last_day(client: Server) -> None:
    async with asking_page(client, "/complete/search", form={"day": "9999-12-31"}) as response:
        assert response.status == 400


async def test_a_day_explains_its_numbers_and_is_searched_again_by_a_button(
    client: Server, database: asyncpg.Connection, day: date
) -> None:
    page = await read(client, f"/complete?day={day}")
    moved = await press(client, "/complete/search", day=str(day))
    whole = await press(client, "/complete/search", day="")
    runs = await database.fetch(
        "SELECT kind, since::date, until::date FROM backfills WHERE finished_at IS NULL"
    )

    assert "missing: in Zendesk, and not here. A search of this day keeps them." in words_of(page)
    assert 'action="/complete/search"' in page
    assert "/retries/plan?ids=" in page
    assert (moved, whole) == (f"/complete?day={day}&notice=search_begun", "/complete?notice=search_begun")
    assert ("history", day, day + timedelta(days=1)) in [tuple(run) for run in runs]
