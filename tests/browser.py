"""A real Chromium without a window, and what every test with it wants."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Playwright

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"
)


async def chromium(play: Playwright) -> Browser:
    return await play.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)


async def sign_in(page: Page, url: str, name: str, token: str) -> None:
    await page.goto(f"{url}/sign-in")
    await page.get_by_label("Your name").fill(name)
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{url}/")
