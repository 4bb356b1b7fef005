"""Take the README's screenshots: `python -m tests.support.screens`. The data comes through the real system."""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import asyncpg
from aiohttp import ClientSession
from playwright.async_api import Browser, async_playwright
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.servers import mongodb, postgres, valkey
from service.local.zendesk.samples import Sample, samples
from service.local.zendesk.stand_in import Fault, Zendesk
from service.reconcile.run import RunOptions, reconcile
from service.storage import objects
from tests.conftest import API_TOKEN, ROOT, Server, migrate, serving, working
from tests.support.browser import running_chromium, sign_in

WIDTH, HEIGHT = 1280, 860
PAGES = {
    "overview": "/",
    "emails": "/emails",
    "email": "/emails/2",
    "failed": "/emails/1260",
    "not-synced": "/emails?sync_status=failed",
    "not-synced-email": "/emails?sync_status=failed",  # the first font that exists
    "plan-syncs": "/retries/plan?what=sync&sync_status=failed",
    "failures": "/failures",
    "quarantine": "/quarantine",
    "quarantined": "/quarantine/1",
    "plan": "/retries/plan?status=failed&error_code=not_found",
    "retries": "/retries",
    "reconciliations": "/reconciliations",
    "reconciliation": "/reconciliations/1",
    "activity": "/activity",
    "sign-in": "/sign-in",
    "nothing": "/nothing",
}
LEFT_OUT = {
    "failed",
    "nothing",
    "quarantine",
    "sign-in",
    "not-synced",
    "not-synced-email",
    "plan-syncs",
    "reconciliation",
    "reconciliations",
}
SHOWN = tuple(name for name in PAGES if name not in LEFT_OUT)
# A usual day: the e-mails above many times, with different durations.
_HISTORY = """
    INSERT INTO incoming_emails (
        zendesk_ticket_id, from_email, from_name, subject, received_at, processing_status,
        started_at, completed_at, attempt_number, processing_error, error_code, error_host,
        sync_status, sync_attempt_number, synced_at, sync_due_at, sync_error_code, sync_error
    )
    SELECT (48200 + row_number() OVER (ORDER BY received))::text, from_email, from_name, subject, received, status,
        received + queue, received + queue + took, 1, e.error, e.code, e.host,
        CASE WHEN s.code IS NULL THEN 'synced' ELSE 'failed' END, 1,
        CASE WHEN s.code IS NULL THEN received + queue + took + interval '0.2 s' END,
        received + queue + took + interval '0.2 s', s.code, s.error
    FROM (
        SELECT n, now() - interval '24 hours' * power(random(), 1.15) AS received,
            interval '1 second' * (0.02 + 0.2 * random() ^ 3) AS queue,
            interval '1 second' * (0.3 + 3 * random() ^ 4) AS took,
            CASE WHEN n % 173 = 0 THEN 'failed' ELSE 'completed' END AS status,
            1 + n % 19 AS model
        FROM generate_series(1, 1240) AS n
        ORDER BY received
    ) AS made
    JOIN incoming_emails AS kept ON kept.id = made.model
    LEFT JOIN (VALUES ('The file is gone: 404', 'attachment_gone', 'p12.zdusercontent.com')) AS e (error, code, host)
        ON status = 'failed'
    LEFT JOIN (
        VALUES ('mongodb: the document was refused (121): check the collection''s validation rules', 'document_refused')
    ) AS s (error, code) ON n % 410 = 9
    ORDER BY received
"""


async def main(directory: Path, wanted: Sequence[str], *, every: bool) -> None:
    """Take screenshots of these pages; `every`: also dark, and in the width of a phone."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database_url = stack.enter_context(postgres(place / "postgres")).replace("postgres@", "postgres:any@")
        redis_url = stack.enter_context(valkey(place / "valkey"))
        target = stack.enter_context(mongodb(place / "mongodb"))
        address = stack.enter_context(running_chromium(place / "chromium"))
        await asyncio.to_thread(migrate, database_url, "upgrade", "head")
        async with Zendesk() as zendesk:
            settings = _settings(place, database_url, redis_url, zendesk, target)
            async with serving(settings, zendesk) as server, working(settings), async_playwright() as play:
                await _fill(server, database_url)
                await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
                browser = await play.chromium.connect_over_cdp(address)
                for theme in ("light", "dark"):
                    for width in (WIDTH, 390) if every else (WIDTH,):
                        names = wanted if every or theme == "light" else wanted[:1]
                        await _photograph(browser, server.url, directory, names, theme, width, full=every)
                await browser.close()


async def _photograph(
    browser: Browser, url: str, directory: Path, names: Sequence[str], theme: str, width: int, *, full: bool
) -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": HEIGHT}, color_scheme="dark" if theme == "dark" else "light"
    )
    page = await context.new_page()
    await sign_in(page, url, "Mara", API_TOKEN)
    for name in names:
        await page.goto(url + PAGES[name])
        if name == "not-synced-email":
            await page.locator("#rows .subject a").first.click()
            await page.wait_for_url("**/emails/*")
        await page.wait_for_timeout(700)
        suffix = ("" if theme == "light" else "-dark") + ("" if width == WIDTH else f"-{width}")
        await page.screenshot(path=directory / f"{name}{suffix}.png", full_page=full)
    await context.close()


def _settings(place: Path, database_url: str, redis_url: str, zendesk: Zendesk, target: str) -> Settings:
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        storage_url=f"file://{place}/objects",
        zendesk_url=zendesk.url,
        zendesk_oauth_client_id=zendesk.client_id,
        zendesk_oauth_client_secret=SecretStr(zendesk.client_secret),
        zendesk_webhook_secrets=(SecretStr(zendesk.secret),),
        api_token=SecretStr(API_TOKEN),
        download_hosts=("127.0.0.1",),
        download_private_networks=True,
        retry_min_seconds=0.5,
        max_retries=1,
        early_seconds=0,  # a missing file fails at once
        worker_name="worker.1",
        sync_url=(SecretStr(f"{target}/archive.emails"),),
        public_url="https://holdfast.acme.example",
    )


async def _fill(server: Server, database_url: str) -> None:
    zendesk = server.zendesk
    await _send_samples(server, 48_100)
    for email_id in range(1, 20):
        await server.until(email_id, "completed", "failed")
    connection = await asyncpg.connect(database_url)
    await connection.execute(_HISTORY)
    await connection.close()
    for number in range(1, 13):
        gone = zendesk.add_file(f"statement-{number}.pdf", b"%PDF-1.4", faults=[Fault(status=404)] * 9)
        kept = zendesk.add_file("cover.txt", b"Dear all,\n")
        busy = zendesk.add_file("scan.pdf", b"%PDF-1.4", faults=[Fault(status=503)] * 9)
        urls = [kept, gone] if number < 10 else [kept, busy]
        subject = f"Statement of account, page {number}"
        await server.send(zendesk.payload(ticket_id=49_500 + number, subject=subject, attachments=urls))
    await server.send(b'{"ticket_id": 49520, "subject": "Say \\"hello" to us", "attachments": []}')
    await server.send(b'{"ticket_id": "", "subject": "<script>alert(1)</script>"}')
    newest = await _send_samples(server, 49_600)
    for email_id in range(newest - 30, newest + 1):
        await server.until(email_id, "completed", "failed")
    await _reconcile(server)
    await _again(server, f"{newest - 22}/retry")
    await server.until(newest - 22, "failed")
    await _retry_many(server)
    await _again(server, f"{newest}/sync")


async def _reconcile(server: Server) -> None:
    """Reconcile once with two objects gone, and once to repair them."""
    storage = server.res.storage
    for key in [each.key async for each in objects.listing(storage, "sha256/")][:2]:
        await objects.remove(storage, key)
    for options in (RunOptions("mara@ops (command line)"), RunOptions("mara@ops (command line)", fix="all")):
        await reconcile(server.res, options, lambda _share, _seen: None)


async def _send_samples(server: Server, first_ticket: int) -> int:
    """Send the sample e-mails; return the id of the last one."""
    zendesk, email_id = server.zendesk, 0
    for number, sample in enumerate(_latin(), 1):
        faults = [Fault(status=503, headers={"Retry-After": "1"})] if number == 2 else []
        urls = [
            zendesk.add_file(file.name, file.content, content_type=file.content_type, faults=faults)
            for file in (*sample.files, *sample.inline)
        ]
        comment_id = zendesk.add_email(
            first_ticket + sample.ticket,
            subject=sample.subject,
            from_name=sample.from_name,
            from_address=sample.from_address,
            to=sample.to,
            cc=sample.cc,
            text=sample.text,
            html=sample.html,
            attachments=urls[: len(sample.files)],
            inline=urls[len(sample.files) :],
            outbound=sample.outbound,
        )
        more = {
            "subject": sample.subject,
            "from_name": sample.from_name,
            "from_email": sample.from_address,
        }
        receipt = await server.send(zendesk.announcement(first_ticket + sample.ticket, comment_id, **more))
        email_id = int(receipt["email_id"])
    return email_id


def _latin() -> list[Sample]:
    """Leave out samples that need fonts which may be missing."""
    return [sample for sample in samples() if sample.from_name != "Kobayashi Trading"]


async def _again(server: Server, what: str) -> None:
    async with (
        ClientSession(headers={"Authorization": f"Bearer {API_TOKEN}", "X-Operator": "Mara"}) as session,
        session.post(f"{server.url}/api/v1/emails/{what}") as response,
    ):
        assert response.status == 202, await response.text()


async def _retry_many(server: Server) -> None:
    async with ClientSession(
        headers={"Authorization": f"Bearer {API_TOKEN}", "X-Operator": "Tom"}
    ) as session:
        gone = {"status": "failed", "error_code": "attachment_gone", "host": "p12.zdusercontent.com"}
        synced = {"what": "sync", "sync_status": "synced", "sender": "mara.lindqvist@customer.example"}
        for form in (synced, {**gone, "per_second": "1"}):
            async with session.post(f"{server.url}/retries", data=form) as response:
                assert response.status in {200, 303}, await response.text()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", action="store_true", help="each page, light and dark, wide and narrow")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "screens")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.to, tuple(PAGES) if arguments.every else SHOWN, every=arguments.every))
