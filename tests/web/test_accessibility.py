"""Every page, in Chromium: axe finds no barrier, forms have visible borders, and nothing overflows on a phone."""

import re
from collections.abc import AsyncIterator
from pprint import pformat
from typing import Any

import asyncpg
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, ViewportSize

from service.config.settings import Settings
from tests.conftest import API_TOKEN, Server
from tests.support.browser import PATIENCE, needs_chromium, sign_in
from tests.support.every_page import VIEWS, fill, paths
from tests.support.rows import add, add_failed
from tests.support.source import asking, today

pytestmark = [needs_chromium, pytest.mark.long]
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 780}
SLOW = 400  # seconds for all pages, on a machine that is busy

# The frame of a message is a stranger's HTML.
_ALL_RULES = {"resultTypes": ["violations"], "iframes": False, "preload": False}
# The list of error codes has 150 sections of one form.
_LEFT_OUT = {"exclude": [".operation:nth-of-type(n + 4)"]}
_COLOURS = {**_ALL_RULES, "runOnly": ["color-contrast"]}

# Return the texts of controls whose edge, or whose placeholder, is too faint. WCAG 2.2, 1.4.11 and 1.4.3:
# https://www.w3.org/TR/WCAG22/#non-text-contrast
_FAINT = """() => {
  const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
  const pixel = (...colours) => {
    context.fillStyle = "white";
    context.fillRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => value / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [less, more] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (more + 0.05) / (less + 0.05);
  };
  const under = (element) => {
    const colours = [];
    for (let each = element; each; each = each.parentElement) colours.unshift(getComputedStyle(each).backgroundColor);
    return colours;
  };
  const faint = [];
  for (const control of document.querySelectorAll("input:not([type=hidden], [type=checkbox], [type=radio]), select, textarea, button:not(.link), .button")) {
    if (!control.checkVisibility()) continue;
    const style = getComputedStyle(control);
    const outside = under(control.parentElement);
    const edge = contrast(pixel(...outside, style.borderTopColor), pixel(...outside));
    const area = contrast(pixel(...outside, style.backgroundColor), pixel(...outside));
    if (Math.max(parseFloat(style.borderTopWidth) ? edge : 1, area) < 3) faint.push(`edge of ${control.id || control.textContent}`);
    if (control.placeholder) {
      const text = contrast(pixel(...under(control), getComputedStyle(control, "::placeholder").color), pixel(...under(control)));
      if (text < 4.5) faint.push(`placeholder of ${control.id}`);
    }
  }
  return faint;
}"""

# Return the elements that reach beyond the window, and that no scrolling container cuts.
_BEYOND = """() => [...document.querySelectorAll("main *, header *")]
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((each) => `${each.tagName} ${each.className} ${each.textContent.trim().slice(0, 30)}`).slice(0, 4)"""

# Return the texts of cells that are not shown, of lists whose rows lead to no page that has them.
_LEFT_OUT_CELLS = """() => [...document.querySelectorAll(".list.whole td")]
  .filter((each) => each.textContent.trim() && !each.checkVisibility()).map((each) => each.textContent.trim())"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return asking(settings)


@pytest.fixture
async def every_path(settings: Settings, database: asyncpg.Connection) -> list[str]:
    """Fill the database; return the path of every page."""
    await fill(database, settings)
    day = await today(database)
    return [*paths(), *(path.format(today=day) for path in VIEWS)]


@pytest.fixture
async def page(browser: Browser, client: Server) -> AsyncIterator[Page]:
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    await sign_in(page, client.url, "Mara", API_TOKEN)
    yield page
    await context.close()


@pytest.mark.timeout(SLOW)
async def test_no_page_has_a_barrier_or_overflows_on_a_phone(
    every_path: list[str], page: Page, client: Server
) -> None:
    """Each page is loaded once; a failure names all that is to be done, on all pages."""
    wrong: dict[str, Any] = {}
    for path in every_path:
        await page.set_viewport_size(DESKTOP)
        await _open(page, client, path)
        for theme in ("light", "dark"):
            await page.emulate_media(color_scheme=theme)
            rules = _ALL_RULES if theme == "light" else _COLOURS
            found = (await Axe().run(page, context=_LEFT_OUT, options=rules)).response["violations"]
            if bad := [*map(_summary, found), *await page.evaluate(_FAINT)]:
                wrong[f"{path}, {theme}"] = bad
        await page.set_viewport_size(PHONE)
        if await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wrong[f"{path}, phone"] = await page.evaluate(_BEYOND)
        if hidden := await page.evaluate(_LEFT_OUT_CELLS):
            wrong[f"{path}, cells on a phone"] = hidden

    assert not wrong, pformat(wrong, width=200)


async def test_navigation_and_columns_stay_on_a_phone(
    page: Page, client: Server, database: asyncpg.Connection
) -> None:
    await add_failed(database, "1 hour")
    await add(database, "attachments", email_id=1, position=0, source_url="https://a.example")
    await page.set_viewport_size(PHONE)
    await page.goto(f"{client.url}/emails")

    ends = await page.locator("nav[aria-label=Pages] a").evaluate_all(
        "links => links.map((link) => link.getBoundingClientRect().right)"
    )
    assert len(ends) >= 8
    assert max(ends) <= PHONE["width"]
    assert await page.locator("#email-1 [data-name]:visible").all_inner_texts() == ["1", "0 / 1"]


async def test_a_row_is_a_link_and_leads_to_the_ones_around_it(
    page: Page, client: Server, database: asyncpg.Connection
) -> None:
    for ticket in ("7", "8", "7", "7"):
        await add(database, zendesk_ticket_id=ticket, subject=f"About {ticket}")
    await page.goto(f"{client.url}/emails?ticket=7")

    await page.locator("#email-3 td").last.click(force=True)  # the link of the row lies above
    await page.wait_for_url(f"{client.url}/emails/3?ticket=7")
    await page.get_by_role("link", name="Next").click()
    # 2 is not in the list. The page comes with a link that names the list; then its script, which remembers the list,
    # makes a shorter one. Either may be the one that is clicked.
    await page.wait_for_url(re.compile(rf"^{re.escape(client.url)}/emails/1(\?ticket=7)?$"))
    await page.get_by_role("link", name="3 of 3 in the list").click()

    await page.wait_for_url(f"{client.url}/emails?ticket=7")


async def _open(page: Page, client: Server, path: str) -> None:
    answer = await page.goto(client.url + path)
    assert answer is not None
    assert answer.status == {
        "/nothing": 404,
        "/login?code=unknown": 404,
        "/emails?status=wrong": 400,
        "/retention/plan": 400,
    }.get(path, 200), path


def _summary(violation: dict[str, Any]) -> tuple[str, list[str]]:
    return violation["id"], [node["html"][:150] for node in violation["nodes"][:3]]
