"""One headless Chromium for all tests that run in a process, and the sign-in with it."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.support.processes import wait_for

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 20_000  # milliseconds
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)

needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium"
)


@contextmanager
def running_chromium(directory: Path) -> Iterator[str]:
    """Run Chromium with its profile in `directory`; yield the address of its debugging protocol."""
    os.environ["NODE_COMPILE_CACHE"] = str(
        directory
    )  # each test starts Playwright, which is a program of Node.js
    port = directory / "DevToolsActivePort"
    command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={directory}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: port.exists() and port.read_text().count("\n"), seconds=60)
            yield f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def chromium_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Chromium once for all tests: the start takes longer than most of them."""
    with running_chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def browser(chromium_address: str, non_blocking: BlockBuster) -> AsyncIterator[Browser]:
    # Playwright itself reads files in this process.
    non_blocking.deactivate()
    expect.set_options(timeout=PATIENCE)
    async with async_playwright() as play:
        yield await play.chromium.connect_over_cdp(chromium_address)


async def sign_in(page: Page, url: str, name: str, token: str) -> None:
    await page.goto(f"{url}/sign-in")
    await page.get_by_label("Your name").fill(name)
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{url}/")
