"""The dashboard in a real Chromium: the work of an operator, and hostile e-mails without effect."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from arq.worker import Worker
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from tests.conftest import API_TOKEN, Server, eventually, serving, working
from tests.support.access import READ_TOKEN
from tests.support.browser import PATIENCE, needs_chromium, sign_in
from tests.support.messages import add_message
from tests.support.pages import HOSTILE, INVOICE, PAGES, PNG, failing, quarantine, send
from tests.support.proxy import before_postgres
from tests.support.rows import add, add_failed, add_quarantined_body
from tests.support.targets import SECRET, receiver, until_synced

pytestmark = [needs_chromium, pytest.mark.long]
_HUGE = 2**53 + 1  # JavaScript has no such number
_FOREIGN = re.compile(r"^(?:https?|wss?|ftp):.*").findall


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_read_token": SecretStr(READ_TOKEN), "max_retries": 0})


@pytest.fixture
async def page(browser: Browser, client: Server) -> AsyncIterator[Page]:
    """A page that allows no error on its console, no failing script, and no foreign host."""
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    complaints: list[str] = []

    def complain(message: ConsoleMessage) -> None:
        # After the sign-out, a page that is about to go may still ask for its stream.
        is_stream = message.location["url"].startswith(f"{client.url}/live/")
        if message.type in {"error", "warning"} and not (is_stream and "401 (Unauthorized)" in message.text):
            complaints.append(message.text)

    context.on("console", complain)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("dialog", lambda dialog: complaints.append(dialog.message))
    context.on("request", lambda request: complaints.extend(_FOREIGN(request.url.removeprefix(client.url))))
    yield page
    await context.close()
    assert complaints == []


@pytest.fixture
async def operator(page: Page, client: Server) -> Page:
    await sign_in(page, client.url, "Mara", API_TOKEN)
    return page


async def test_operator_signs_in_and_out(page: Page, client: Server) -> None:
    await page.goto(f"{client.url}/failures")
    await page.get_by_label("Your name").fill("Mara")
    await page.get_by_label("Token").fill(API_TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Failures")
    await expect(page.get_by_text("Mara")).to_be_visible()

    await page.get_by_role("button", name="Sign out").click()
    await page.goto(f"{client.url}/")

    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


async def test_overview_updates_itself(operator: Page, client: Server, worker: Worker) -> None:
    await expect(operator.get_by_role("heading", level=1)).to_have_text(
        "No e-mail came in the last 24 hours."
    )

    await failing(client)

    await expect(operator.get_by_role("heading", level=1)).to_contain_text(
        "The one e-mail of the last 24 hours"
    )
    await expect(
        operator.get_by_role("link", name="1 failed: The address of a file leads nowhere")
    ).to_be_visible()
    await expect(operator.locator("#pulse")).to_have_text("Live")


async def test_open_details_and_focus_survive_an_update(
    operator: Page, client: Server, worker: Worker
) -> None:
    charts = operator.locator("#hours-charts")  # folded: there are few hours with e-mails
    await charts.locator("summary").first.click()

    await client.until(await send(client), "completed")
    await expect(operator.get_by_role("heading", level=1)).to_contain_text("The one e-mail")

    await expect(charts).to_have_attribute("open", "")
    await expect(charts.locator("summary").first).to_be_focused()


async def test_times_are_in_the_zone_of_the_browser_until_another_is_chosen(
    operator: Page, client: Server, database: asyncpg.Connection
) -> None:
    number = await add_quarantined_body(database)  # received at noon in UTC
    devtools = await operator.context.new_cdp_session(operator)
    await devtools.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
    zone, time = operator.locator("[data-zone]"), operator.locator("time[data-stamp]").first
    await operator.goto(f"{client.url}/quarantine/{number}")
    await expect(zone).to_have_text("Asia/Tokyo")
    await expect(time).to_contain_text("9:00:00")
    without_script = await (await operator.request.get(operator.url)).text()
    await operator.goto(f"{client.url}/zone")
    await operator.get_by_label("Zone of this browser").select_option("Europe/Berlin")
    await operator.get_by_role("button", name="Choose").click()
    await operator.goto(f"{client.url}/quarantine/{number}")

    await expect(zone).to_have_text("Europe/Berlin")
    await expect(time).to_contain_text("1:00:00")
    assert "21:00:00 JST" in without_script


async def test_selected_rows_lead_to_a_plan(
    operator: Page, client: Server, database: asyncpg.Connection
) -> None:
    chosen = [await add_failed(database, "1 hour") for _ in range(3)]
    await operator.goto(f"{client.url}/emails")
    for number in (chosen[0], chosen[2]):
        await operator.get_by_label(f"Select e-mail {number}").check()
    await operator.get_by_role("button", name="Dismiss …").click()

    await expect(operator.get_by_role("heading", level=1)).to_have_text("Dismiss 2 e-mails?")


async def test_failed_email_is_retried_with_a_button(operator: Page, client: Server, worker: Worker) -> None:
    await failing(client, subject="Statement")
    await operator.goto(f"{client.url}/emails?status=failed")
    await operator.get_by_role("link", name="Statement").click()
    await expect(operator.locator(".timeline")).to_contain_text("Attempt 1 failed")

    await operator.get_by_role("button", name="Retry").click()

    await expect(operator.get_by_text("Retry queued")).to_be_visible()
    await expect(operator.locator(".timeline")).to_contain_text("Mara (dashboard)")
    await expect(operator.locator(".timeline")).to_contain_text("Completed: all files are stored.")
    assert "notice" not in operator.url


async def test_many_failed_emails_are_retried_at_once(operator: Page, client: Server, worker: Worker) -> None:
    ids = [await failing(client) for _ in range(3)]
    await operator.goto(f"{client.url}/failures")

    await operator.get_by_role("link", name="Retry all …").click()
    await expect(operator.get_by_role("heading", level=1)).to_have_text("Retry 3 e-mails?")
    await operator.get_by_role("button", name="Retry").click()

    await expect(operator.get_by_text("Bulk retry started.")).to_be_visible()
    await expect(operator.get_by_text("done")).to_be_visible()
    for email_id in ids:
        await client.until(email_id, "completed")
    await operator.goto(f"{client.url}/emails?status=completed")
    await expect(operator.locator("#rows tr")).to_have_count(3)


async def test_quarantined_request_is_replayed(
    operator: Page, client: Server, database: asyncpg.Connection
) -> None:
    await quarantine(client)
    await database.execute(
        "UPDATE quarantined_webhooks SET raw_body = $1", b'{"ticket_id": 7, "attachments": []}'
    )
    await operator.goto(f"{client.url}/quarantine")

    await operator.get_by_role("link", name="Request 1").click()
    await operator.get_by_role("button", name="Replay").click()

    await expect(operator.get_by_text("Replayed as this e-mail")).to_be_visible()


async def test_list_is_filtered_while_typing_and_the_address_follows(operator: Page, client: Server) -> None:
    for subject in ("Invoice 17", "Contract 18"):
        await client.send(client.zendesk.payload(subject=subject))
    await operator.goto(f"{client.url}/emails")
    await expect(operator.locator("#rows tr")).to_have_count(2)

    await operator.keyboard.press("/")
    await operator.keyboard.type("contract")

    await expect(operator.locator("#rows tr")).to_have_count(1)
    await operator.wait_for_url(f"{client.url}/emails?q=contract")
    await operator.go_back()
    await expect(operator.locator("#rows tr")).to_have_count(2)


async def test_ended_session_leads_to_sign_in(browser: Browser, client: Server) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await sign_in(page, client.url, "Mara", API_TOKEN)
    await page.goto(f"{client.url}/emails")

    await context.clear_cookies()
    await page.get_by_label("State").select_option("failed")

    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    await context.close()


async def test_overview_shows_that_postgres_is_down_and_recovers(
    browser: Browser, settings: Settings, zendesk: Zendesk
) -> None:
    async with before_postgres(settings) as (proxy, through), serving(through, zendesk) as client:
        context = await browser.new_context()
        page = await context.new_page()
        await sign_in(page, client.url, "Mara", API_TOKEN)
        verdict = page.get_by_role("heading", level=1)
        await expect(verdict).to_have_text("No e-mail came in the last 24 hours.")

        proxy.cut()
        await expect(verdict).to_have_text("Postgres cannot be reached.")
        await proxy.resume()

        await expect(verdict).to_have_text("No e-mail came in the last 24 hours.")
        await context.close()


async def test_list_loads_its_next_page_by_itself(
    operator: Page, client: Server, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, subject)"
        " SELECT n::text, 'No. ' || n FROM generate_series(1, 120) AS n"
    )
    await operator.goto(f"{client.url}/emails")
    await expect(operator.locator("#rows tr")).to_have_count(51)

    await operator.locator("#onward").scroll_into_view_if_needed()
    await expect(operator.locator("#email-21")).to_be_attached()
    await operator.locator("#onward").scroll_into_view_if_needed()

    await expect(operator.locator("#rows tr")).to_have_count(120)


async def test_live_list_shows_new_emails(operator: Page, client: Server) -> None:
    await operator.goto(f"{client.url}/emails")
    await operator.get_by_role("link", name="Live: off. Start").click()
    await operator.wait_for_url(f"{client.url}/emails?live=1")

    await client.send(client.zendesk.payload(subject="Just in"))

    await expect(operator.get_by_role("link", name="Just in")).to_be_visible()
    assert operator.url.endswith("?live=1")


async def test_images_and_pdfs_have_previews(operator: Page, client: Server, worker: Worker) -> None:
    for file in (PNG, INVOICE):
        await client.until(await send(client, name=file.name, content=file.content), "completed")

    await operator.goto(f"{client.url}/emails/1")
    picture = operator.get_by_role("img", name=f"Preview of {PNG.name}")
    await expect(picture).to_have_js_property("complete", value=True)
    assert await picture.evaluate("image => image.naturalWidth") > 0
    await operator.goto(f"{client.url}/emails/2")
    await operator.get_by_text("Preview").click()

    async def viewer() -> bool:
        return any(frame.url.startswith("chrome-extension://") for frame in operator.frames)

    assert await eventually(viewer)


async def test_export_is_a_json_file(operator: Page, client: Server, worker: Worker) -> None:
    await client.until(await send(client), "completed")
    await operator.goto(f"{client.url}/emails/1")

    async with operator.expect_download() as download:
        await operator.get_by_role("link", name="Export as JSON").click()

    assert (await download.value).suggested_filename == "email-1.json"


async def test_no_content_of_an_email_runs(operator: Page, client: Server, worker: Worker) -> None:
    """No dialog opens, and no policy is violated: hostile content is text, or is never loaded."""
    script = b"<!doctype html><script>alert(1)</script>"
    await failing(client, subject=HOSTILE, from_name=HOSTILE, name=HOSTILE)
    await client.until(
        await send(client, subject=HOSTILE, name=f"{HOSTILE}.html", content=script), "completed"
    )
    await quarantine(client)

    for path in (*PAGES, "/emails/2"):
        await operator.goto(client.url + path)
        await expect(operator.locator("h1").first).to_be_visible()
        assert await operator.evaluate("document.querySelectorAll('img[src=x]').length") == 0


async def test_reader_sees_pages_without_buttons(page: Page, client: Server, worker: Worker) -> None:
    await failing(client)
    await sign_in(page, client.url, "Rea", READ_TOKEN)

    await page.goto(f"{client.url}/emails/1")

    await expect(page.get_by_text("Attempt 1 failed")).to_be_visible()
    assert await page.get_by_role("button").all_inner_texts() == ["Sign out"]


async def test_every_page_fits_a_phone_and_works_by_keyboard(
    operator: Page, client: Server, worker: Worker, tmp_path: Path
) -> None:
    await failing(client, subject="long " * 100, name="w" * 200)
    await quarantine(client)
    await operator.set_viewport_size({"width": 390, "height": 800})
    for number, path in enumerate(PAGES):
        await operator.goto(client.url + path)
        await operator.screenshot(path=tmp_path / f"{number}.png", full_page=True)

        wide: Any = await operator.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, path
        await operator.keyboard.press("Tab")
        await expect(operator.locator(".skip")).to_be_focused()


async def test_pages_and_buttons_work_without_javascript(
    browser: Browser, client: Server, worker: Worker
) -> None:
    await failing(client)
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await sign_in(page, client.url, "Mara", API_TOKEN)

    await page.goto(f"{client.url}/emails?status=failed&q=&ticket=")
    await page.locator("#rows a").first.click()
    await page.get_by_role("button", name="Retry").click()

    await expect(page.get_by_text("Retry queued")).to_be_visible()
    await client.until(1, "completed")
    await context.close()


async def test_failed_sync_is_found_by_the_filter_and_retried_with_a_button(
    browser: Browser, settings: Settings, zendesk: Zendesk
) -> None:
    async with receiver() as target:
        target.statuses = [422]
        with_target = settings.model_copy(
            update={"sync_url": (SecretStr(target.url),), "sync_webhook_secret": (SecretStr(SECRET),)}
        )
        async with serving(with_target, zendesk) as client, working(with_target):
            await until_synced(client, await send(client, subject="Refused"), "failed")
            await until_synced(client, await send(client, subject="Taken"))
            context = await browser.new_context()
            page = await context.new_page()
            await sign_in(page, client.url, "Mara", API_TOKEN)
            await page.goto(f"{client.url}/emails")
            await expect(page.locator("#rows tr")).to_have_count(2)

            await page.get_by_label("Sync", exact=True).select_option("failed")
            await expect(page.locator("#rows tr")).to_have_count(1)
            await expect(page).to_have_url(f"{client.url}/emails?sync_status=failed")
            await page.get_by_role("link", name="Refused").click()
            await expect(page.get_by_text("Could not be synced: needs attention.")).to_be_visible()
            await page.get_by_role("button", name="Sync again").click()

            await expect(page.get_by_text("Sync queued.")).to_be_visible()
            await expect(page.get_by_text("The target is up to date.")).to_be_visible()
            await expect(page.get_by_text("Sync started again")).to_be_visible()
            assert [body["data"]["subject"] for _, body in target.messages].count("Refused") == 1
            await context.close()


async def test_reader_tries_the_api_with_the_session_of_the_browser(
    operator: Page, client: Server, database: asyncpg.Connection
) -> None:
    """Numbers that JavaScript would round stay as they are, and a stranger's text is text."""
    await add(database, id=_HUGE, subject=HOSTILE)
    await operator.goto(f"{client.url}/docs")
    form = await _opened(operator, "show_email")
    await form.get_by_label("id").fill(str(_HUGE))
    await form.get_by_role("button", name="Send").click()

    await expect(form.locator(".status")).to_contain_text("200 OK")
    await expect(form.locator(".headers")).to_contain_text(
        f"GET /api/v1/emails/{_HUGE}\nContent-Type: application/json"
    )
    shown = await form.locator(".body").inner_text()
    assert shown.startswith(f'{{\n  "id": {_HUGE},\n  "zendesk_ticket_id": "4711",\n')
    assert json.loads(shown) == await client.email(_HUGE)


async def test_tried_parameters_are_sent_and_files_are_not_read(
    operator: Page, client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    """Of a long text the beginning is shown, without half a character at its end."""
    for status in ("failed", "completed", "failed"):
        await add(database, processing_status=status, subject="Größe & Co")
    await add_message(database, res, 1, text="ä" * 500_000)
    await operator.goto(f"{client.url}/docs")
    form = await _opened(operator, "list_emails")
    await form.get_by_label("status", exact=True).select_option("failed")
    await form.get_by_label("ticket").fill("4711&status=completed")
    await form.get_by_role("button", name="Send").click()
    await expect(form.locator(".body")).to_contain_text('"emails": []')
    await form.get_by_label("ticket").fill("4711")
    await form.get_by_role("button", name="Send").click()
    await expect(form.locator(".body")).to_contain_text('"total": 2')

    archive = await _opened(operator, "email_archive")
    await archive.get_by_role("button", name="Send").click()
    link = archive.get_by_role("link", name="Open or download it")
    assert await link.get_attribute("href") == f"{client.url}/api/v1/emails/1/archive.zip"
    assert await archive.locator(".body").count() == 0

    long = await _opened(operator, "message_text")
    await long.get_by_role("button", name="Send").click()
    await expect(long.get_by_role("link", name="The rest is not shown: open all of it")).to_be_visible()
    assert set(await long.locator(".body").inner_text()) == {"ä"}


async def test_try_without_a_session_leads_to_the_sign_in_and_back(browser: Browser, client: Server) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{client.url}/docs")
    form = await _opened(page, "list_failures")
    await form.get_by_role("button", name="Send").click()
    await expect(form.locator(".status")).to_contain_text("401 Unauthorized")
    await form.get_by_role("link", name="Sign in to try it").click()
    await page.get_by_label("Token").fill(API_TOKEN)
    await page.get_by_role("button", name="Sign in").click()

    await page.wait_for_url(f"{client.url}/docs#list_failures")
    form = await _opened(page, "list_failures")
    await form.get_by_role("button", name="Send").click()
    await expect(form.locator(".body")).to_contain_text('"failures": []')
    await context.close()


async def _opened(page: Page, operation: str) -> Locator:
    """Open the form to try an operation."""
    section = page.locator(f"#{operation}")
    await section.get_by_text("Try it", exact=True).click()
    return section.locator("form")
