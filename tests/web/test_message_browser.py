"""Messages in a real Chromium: hostile HTML does nothing, and a page of text, people and files is whole."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.web.handling.contents import shown_headers
from service.web.pages.message import FRAME_POLICY
from tests.conftest import API_TOKEN, Server, eventually, serving
from tests.support.browser import PATIENCE, needs_chromium, sign_in
from tests.support.hostile_html import hostile_html, other_host
from tests.support.messages import add_message, attach
from tests.support.pages import HOSTILE
from tests.support.pages import PNG as PICTURE
from tests.support.rows import add

pytestmark = [needs_chromium, pytest.mark.long]
# The page with its frame, and the frame's document by itself.
SANDBOX = "allow-same-origin allow-popups allow-popups-to-escape-sandbox"


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context
    await context.close()


class Watched:
    """A page, and everything that a message on it must not cause."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.events: list[str] = []
        self.complaints: list[str] = []
        page.context.on("dialog", lambda dialog: self.events.append(dialog.message))
        page.context.on("weberror", lambda error: self.events.append(str(error.error)))
        page.context.on("page", lambda popup: self.events.append(popup.url))
        page.context.on("download", lambda download: self.events.append(download.url))

        page.context.on("console", self._complain)

    def _complain(self, message: ConsoleMessage) -> None:
        if not message.location["url"].endswith("/favicon.ico"):
            self.complaints.append(message.text)

    async def marks(self) -> set[object]:
        """Return the marks that scripts left in the windows of this site; a blocked frame has no window."""
        ours = [frame for frame in self.page.frames if frame.url.startswith("http://127.0.0.1")]
        return {await frame.evaluate("window.ran || 0") for frame in ours}


async def test_hostile_message_runs_sends_and_covers_nothing(
    context: BrowserContext, client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    people = [{"name": HOSTILE, "address": HOSTILE}] * 3
    async with other_host() as (evil, reached):
        await add(database, processing_status="completed", subject=HOSTILE)
        await attach(database, res, 1, 0, name=f"{HOSTILE}.html")
        html = hostile_html(evil)
        more: dict[str, Any] = {
            "subject": HOSTILE,
            "from_name": HOSTILE,
            "from_address": HOSTILE,
            "to": people,
            "cc": people,
        }
        await add_message(database, res, 1, html, html=html, message_id=HOSTILE, **more)
        page = await context.new_page()
        await sign_in(page, client.url, "Mara", API_TOKEN)
        watched = Watched(page)
        places = (
            "/emails/1",
            "/emails/1?view=text",
            "/emails",
            "/emails/1/message.html",
            "/api/v1/emails/1/message.html",
        )
        for place in places:
            await page.goto(client.url + place, wait_until="load")
            await page.wait_for_timeout(300)

            assert page.url == client.url + place
            assert await watched.marks() == {0}, place
            assert watched.events == [], place
            assert watched.complaints == [], place  # no policy had to stop anything
            found = "script:not([src^='/static/']), form:not([action^='/']), [onerror], object, embed, base, svg image"
            for frame in page.frames:
                assert await frame.locator(found).count() == 0, place
        assert reached == []


async def test_policy_and_sandbox_stop_hostile_html_that_nothing_made_harmless(
    context: BrowserContext, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """The second layer by itself: the frame's policy, with the HTML as the stranger sent it."""
    documents: dict[str, str] = {}

    async def answer(request: web.Request) -> web.Response:
        headers = shown_headers("text/html; charset=utf-8", FRAME_POLICY if request.path == "/raw" else "")
        return web.Response(text=documents[request.path], headers=headers)

    routes = [web.get("/raw", answer), web.get("/framed", answer)]
    async with other_host() as (evil, reached), serving(settings, zendesk, routes) as client:
        documents["/raw"] = hostile_html(evil)
        documents["/framed"] = f'<iframe src="/raw" sandbox="{SANDBOX}"></iframe>'
        page = await context.new_page()
        await sign_in(page, client.url, "Mara", API_TOKEN)
        watched = Watched(page)
        for place in ("/framed", "/raw"):
            await page.goto(client.url + place, wait_until="load")
            await page.wait_for_timeout(500)

            assert page.url == client.url + place
            assert await watched.marks() == {0}, place
            assert watched.events == [], place
        assert [each for each in reached if each != "connected"] == []


async def test_message_has_its_height_images_and_links(
    context: BrowserContext, client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    async with other_host() as (elsewhere, reached):
        await add(database, processing_status="completed")
        url = await attach(database, res, 1, 0, PICTURE.content, PICTURE.name)
        html = f'<p>Hello <a href="{elsewhere}/offer">offer</a><img src="{url}" alt="Logo" width="200">{"<p>line" * 60}'
        await add_message(database, res, 1, html=html)
        page = await context.new_page()
        await sign_in(page, client.url, "Mara", API_TOKEN)
        await page.goto(f"{client.url}/emails/1")
        letter = page.frame_locator("#letter")

        assert await letter.get_by_role("img", name="Logo").evaluate("image => image.naturalWidth") > 0
        frame = page.frames[1]
        assert await frame.evaluate("document.documentElement.scrollHeight > 1500")
        whole = "document.documentElement.scrollHeight <= innerHeight"

        async def is_whole() -> bool:
            return bool(await frame.evaluate(whole))

        assert await eventually(is_whole)
        await frame.evaluate("window.kept = true")
        await page.evaluate("document.getElementById('email').classList.add('old')")
        await page.evaluate("htmx.trigger(document.body, 'holdfast:changed')")
        await expect(page.locator("#email.old")).to_have_count(0)
        assert await frame.evaluate("window.kept")  # an update of the page loads no message again
        assert await frame.evaluate(whole)
        async with context.expect_page() as opened:
            await letter.get_by_role("link", name="offer").click()
        popup = await opened.value
        await expect(popup.locator("body")).to_have_text("Hi")
        assert await popup.evaluate("[window.opener, document.referrer]") == [None, ""]
        request = next(each for each in reached if each.startswith("GET /offer"))
        assert "referer" not in request.lower()
        assert page.url == f"{client.url}/emails/1"


async def test_page_of_a_message_fits_a_phone(
    context: BrowserContext, client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add(database, processing_status="completed", zendesk_ticket_id="7" * 30)
    await add(database, processing_status="completed", zendesk_ticket_id="7" * 30)
    people = [{"name": "n" * 200, "address": f"{'a' * 200}@a.example"}] * 3
    wide = f'<table width="2000"><td>{"w" * 500}</table><pre>{"p" * 500}</pre>'
    await add_message(database, res, 1, "w" * 5000, html=wide, to=people, cc=people, subject="s" * 500)
    page = await context.new_page()
    await page.set_viewport_size({"width": 390, "height": 800})
    await sign_in(page, client.url, "Mara", API_TOKEN)
    for place in ("/emails/1", "/emails/1?view=text", "/emails"):
        await page.goto(client.url + place)

        assert await page.evaluate("document.documentElement.scrollWidth") <= 390, place
