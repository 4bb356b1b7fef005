"""The pages without a browser: their content, their rights, and hostile text."""

import asyncio
import re
import tracemalloc
from html import unescape
from urllib.parse import quote

import asyncpg
import pytest
from aiohttp import ClientResponse, ClientSession, CookieJar
from arq.worker import Worker
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.web.handling.shared import STALE_SECONDS, Shared
from service.web.pages import live
from tests.conftest import API_TOKEN, Server, eventually, serving
from tests.support.pages import (
    HOSTILE,
    INVOICE,
    PAGES,
    PNG,
    asking,
    failing,
    press,
    quarantine,
    read,
    send,
    words_of,
)
from tests.support.proxy import before_postgres

READ_TOKEN = "read-token-of-the-tests"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_read_token": SecretStr(READ_TOKEN), "max_retries": 0})


async def test_overview_says_that_all_is_well(client: Server, worker: Worker) -> None:
    await client.until(await send(client), "completed")

    page = words_of(await read(client, "/"))

    assert "The one e-mail of the last 24 hours is stored. None needs attention. Nothing waiting." in page
    assert "Completed 1 all files are stored" in page


async def test_overview_links_to_failures_and_quarantine(client: Server, worker: Worker) -> None:
    await failing(client)
    await quarantine(client)

    page = await read(client, "/")

    assert "2 need attention." in words_of(page)
    assert (
        'href="/emails?status=failed&amp;error_code=not_found&amp;host=127.0.0.1&amp;dismissed=false"' in page
    )
    assert "1 in quarantine" in words_of(page)


async def test_overview_shows_open_alerts(client: Server, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO alerts (cause, key, count, summary, detail, resolved_at) VALUES"
        " ('no_worker', '', 3, 'Three <b>failed</b>', 'Look at them', NULL),"
        " ('waiting', '', 3, 'It was late', 'Nothing to look at', now())"
    )

    page = words_of(await read(client, "/"))

    assert "Three <b>failed</b> since" in page
    assert "It was late" not in page


async def test_empty_overview_explains_how_to_connect_zendesk(client: Server) -> None:
    assert "/webhooks/zendesk" in await read(client, "/")
    assert "/webhooks/zendesk" in await read(client, "/emails")


async def test_overview_of_a_database_that_nobody_migrated_says_so(
    client: Server, database: asyncpg.Connection
) -> None:
    await database.execute("ALTER TABLE alerts RENAME TO alerts_before")
    try:
        page = words_of(await read(client, "/", status=503))
    finally:
        await database.execute("ALTER TABLE alerts_before RENAME TO alerts")

    assert "The tables are not those of this version" in page
    assert "Postgres cannot be reached." not in page


async def test_overview_that_waits_for_a_lock_does_not_say_that_postgres_is_away(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    hasty = settings.model_copy(update={"database_seconds": 0.5})
    async with serving(hasty, zendesk) as client, database.transaction():
        await database.execute("LOCK TABLE incoming_emails IN ACCESS EXCLUSIVE MODE")
        page = words_of(await read(client, "/", status=503))

    assert "Postgres did not answer in time." in page


async def test_overview_without_postgres_says_so_and_recovers(settings: Settings, zendesk: Zendesk) -> None:
    async with before_postgres(settings) as (proxy, through), serving(through, zendesk) as client:
        proxy.cut()
        page = words_of(await read(client, "/", status=503))
        assert "Postgres cannot be reached." in page
        await read(client, "/emails", status=503)

        await proxy.resume()

        async def is_back() -> bool:
            async with asking(client, "/") as response:
                return response.status == 200

        assert await eventually(is_back)


async def test_shared_value_is_computed_once_for_concurrent_callers() -> None:
    asked = 0

    async def find() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return asked

    shared = Shared(find, seconds=60)

    assert await asyncio.gather(*(shared.get() for _ in range(50))) == [1] * 50
    assert shared.peek() == 1
    await shared.close()


async def test_outdated_shared_value_is_computed_again() -> None:
    numbers = iter(range(10))

    async def find() -> int:
        return next(numbers)

    shared = Shared(find, seconds=0)

    assert [await shared.get(), await shared.get()] == [0, 1]
    await shared.close()


async def test_stale_shared_value_is_not_returned() -> None:
    async def find() -> int:
        return 1

    shared = Shared(find, seconds=-STALE_SECONDS)
    await shared.get()

    assert shared.peek() is None
    await shared.close()


async def test_pages_run_only_scripts_with_their_nonce(client: Server, worker: Worker) -> None:
    await failing(client, subject=HOSTILE, from_name=HOSTILE, name=HOSTILE)
    await quarantine(client)
    for path in PAGES:
        async with asking(client, path) as response:
            page, policy = await response.text(), response.headers["Content-Security-Policy"]

        nonce = re.search(r"script-src 'nonce-([\w-]{20,})';", policy)
        assert nonce, policy
        assert "unsafe" not in policy
        scripts = re.findall(r"<script\b([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
        assert len(scripts) == 3, path
        assert all(f'nonce="{nonce[1]}"' in about and "src=" in about and not body for about, body in scripts)
        assert not re.search(r"<[^>]*\s(on\w+|style)=", page), path


async def test_text_of_strangers_is_escaped_and_hides_nothing(client: Server, worker: Worker) -> None:
    email_id = await failing(client, subject=HOSTILE, from_name=HOSTILE, name=HOSTILE)

    for path in (f"/emails/{email_id}", "/emails"):
        page = await read(client, path)

        assert "\u202e" not in page
        assert "\x07" not in page
        assert "<img src=x" not in page
        assert "\ufffdgnp.<script>alert(1)</script>" in unescape(page)


async def test_lone_surrogates_break_no_page(client: Server, worker: Worker) -> None:
    await client.send(b'{"ticket_id": "1", "subject": "a \\ud800 b", "attachments": []}')

    assert "a \ufffd b" in await read(client, "/emails/1")


async def test_body_of_invalid_utf8_is_shown_with_a_note(client: Server) -> None:
    quarantine_id = await quarantine(client)

    page = await read(client, f"/quarantine/{quarantine_id}")

    assert '{"ticket_id": "<b>bold</b>", \ufffd' in unescape(page)
    assert "<b>bold</b>" not in page
    assert "not valid UTF-8" in page


async def test_indentation_of_nested_json_stops_at_the_shown_length(
    client: Server,
) -> None:
    body = b'{"a":' + b"[" * 400 + b"1," * 400_000 + b"1" + b"]" * 400 + b"}"
    receipt = await client.send(body)
    tracemalloc.start()
    try:
        page = await read(client, f"/quarantine/{receipt['quarantine_id']}")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert "Only the start of the body is shown" in page
    assert most < 60_000_000


@pytest.mark.parametrize(
    ("ticket", "links"), [("35436", True), ("35436/../../x", False), ("javascript:1", False)]
)
async def test_only_numeric_tickets_are_linked(
    client: Server, zendesk: Zendesk, ticket: str, *, links: bool
) -> None:
    await client.send(zendesk.payload(ticket_id=ticket))

    page = await read(client, "/emails/1")

    assert (f'href="{zendesk.url}/agent/tickets/{ticket}"' in page) == links


async def test_timeline_has_all_attempts_and_actions(client: Server, worker: Worker) -> None:
    email_id = await failing(client)
    assert await press(client, f"/emails/{email_id}/retry") == f"/emails/{email_id}?notice=retried"
    await client.until(email_id, "completed")

    page = words_of(await read(client, f"/emails/{email_id}"))

    story = page.partition("History")[2]
    places = [
        story.index(part)
        for part in ("Received", "Attempt 1 failed", "Retried", "Attempt 2 completed", "Completed:")
    ]
    assert places == sorted(places)
    assert "not_found" in story
    assert re.search(r"Attempt 1 failed · the attempt took [0-9.,]+ m?s ", story)


async def test_notice_shows_only_our_texts(client: Server, zendesk: Zendesk) -> None:
    await client.send(zendesk.payload())

    assert "Retry queued" in await read(client, "/emails/1?notice=retried")
    assert "Send+us" not in await read(client, "/emails/1?notice=Send+us+money")


async def test_unfinished_email_cannot_be_retried(client: Server, zendesk: Zendesk) -> None:
    await client.send(zendesk.payload())

    assert "<button" not in (await read(client, "/emails/1")).partition("<article")[2]
    assert "only finished e-mails can be retried" in await read(
        client, "/emails/1/retry", form={}, status=409
    )


async def test_readers_see_no_buttons_and_may_use_none(client: Server, worker: Worker) -> None:
    email_id = await failing(client)
    quarantine_id = await quarantine(client)

    for path in PAGES:
        page = await read(client, path, token=READ_TOKEN)
        assert not re.findall(r'<form method="post" action="(?!/sign-out)', page), path
    for path in (
        f"/emails/{email_id}/retry",
        "/retries",
        "/retries/1/cancel",
        f"/quarantine/{quarantine_id}/replay",
    ):
        await read(client, path, form={}, token=READ_TOKEN, status=403)


async def test_without_session_pages_redirect_to_sign_in(client: Server) -> None:
    async with asking(client, "/emails?status=failed", token="wrong") as response:
        assert response.status == 303
        assert response.headers["Location"].startswith("/sign-in?next=/emails%3Fstatus")


async def test_error_in_a_filter_is_shown_on_the_page(client: Server) -> None:
    page = await read(client, "/emails?received_after=yesterday&q=x", status=400)

    assert "Invalid filter: received_after: Input should be" in words_of(page)
    assert 'value="x"' in page


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("2026-01-31", "2026-01-31T00:00:00"),
        ("2026-01-31T18:00+02:00", "2026-01-31T16:00:00"),
        ("2026-01-31T18:00:59.5Z", "2026-01-31T18:00:59"),
        ("2026-01-31T18:00", "2026-01-31T18:00:00"),
        ("yesterday", "yesterday"),
    ],
)
async def test_the_form_has_the_time_of_the_filter_in_utc(client: Server, typed: str, shown: str) -> None:
    """Its next submission would take another time, or none."""
    status = 400 if typed == "yesterday" else 200
    page = await read(client, f"/emails?received_after={quote(typed)}", status=status)

    assert f'name="received_after" type="datetime-local" value="{shown}"' in page


async def test_empty_fields_of_a_form_are_no_filters(client: Server) -> None:
    async with asking(client, "/emails?q=&status=failed&ticket=&sender=") as response:
        assert response.status == 303
        assert response.headers["Location"] == "/emails?status=failed"


async def test_link_to_older_emails_keeps_the_filter(client: Server, zendesk: Zendesk) -> None:
    for _ in range(3):
        await client.send(zendesk.payload(subject="Invoice & more"))

    page = await read(client, "/emails?q=%26+more&limit=2")
    onward = unescape(re.findall(r'class="button" href="([^"]*cursor=[^"]*)"', page)[0])

    assert onward.startswith("/emails?q=%26+more&cursor=")
    assert 'id="email-1"' in await read(client, onward.replace("/emails?", "/emails?limit=2&"))


async def test_bulk_retry_is_planned_before_it_starts(client: Server, worker: Worker) -> None:
    ids = [await failing(client) for _ in range(3)]

    plan = await read(client, "/retries/plan?status=failed&error_code=not_found&host=127.0.0.1")
    place = await press(
        client, "/retries", status="failed", error_code="not_found", host="127.0.0.1", per_second="100"
    )

    assert "Retry 3 e-mails?" in words_of(plan)
    assert place == "/retries?notice=bulk_begun"
    for email_id in ids:
        await client.until(email_id, "completed")

    async def is_done() -> bool:
        return "done" in words_of(await read(client, "/retries"))

    await eventually(is_done)
    assert "3 of 3" in words_of(await read(client, "/retries"))


@pytest.mark.parametrize(
    "query",
    [
        "error_code=not_captured",
        "status=failed",
        "error_code=gone",
        "status=completed&error_code=not_captured",
    ],
)
async def test_a_bulk_retry_is_about_the_e_mails_that_its_plan_counts(
    query: str, client: Server, database: asyncpg.Connection
) -> None:
    await database.executemany(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, error_code) VALUES ('7', $1, $2)",
        [("completed", "not_captured"), ("completed", None), ("failed", "gone"), ("failed", "not_captured")],
    )

    page = await read(client, f"/retries/plan?{query}")
    counted = re.search(r"Retry (\d+) e-mail", words_of(page))
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    await press(client, "/retries", per_second="1", **form)

    assert counted is not None
    assert await database.fetchval("SELECT planned FROM bulk_retries") == int(counted[1]) > 0


async def test_bulk_retry_can_be_cancelled(client: Server, worker: Worker) -> None:
    for _ in range(3):
        await failing(client)
    await press(client, "/retries", status="failed", per_second="1")

    place = await press(client, "/retries/1/cancel")

    assert place == "/retries?notice=bulk_cancelled"
    assert "cancelled" in words_of(await read(client, "/retries"))


async def test_quarantined_request_is_replayed(client: Server, database: asyncpg.Connection) -> None:
    quarantine_id = await quarantine(client)
    await database.execute(
        "UPDATE quarantined_webhooks SET raw_body = $1", b'{"ticket_id": 7, "attachments": []}'
    )

    place = await press(client, f"/quarantine/{quarantine_id}/replay")

    assert place == "/emails/1?notice=replayed"
    assert "Replayed from quarantine" in await read(client, place)
    assert "e-mail 1" in await read(client, "/quarantine?replayed=true")


async def test_failed_replay_shows_the_reason(client: Server) -> None:
    quarantine_id = await quarantine(client)

    page = await read(client, f"/quarantine/{quarantine_id}/replay", form={}, status=409)

    assert "not_json" in page


async def test_previews_of_images_and_pdfs_allow_no_scripts(client: Server, worker: Worker) -> None:
    for file, kind in ((PNG, "image/png"), (INVOICE, "application/pdf")):
        email_id = await send(client, name="a.html", content=file.content)
        await client.until(email_id, "completed")

        async with asking(client, f"/emails/{email_id}/attachments/0/preview") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == kind
            assert response.headers["Content-Disposition"] == "inline"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            policy = response.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'")
            assert "frame-ancestors 'self'" in policy
            assert "script" not in policy
            assert await response.read() == file.content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b"<!doctype html><script>alert(1)</script>"),
        ("a.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
        ("a.pdf", b"Hello"),
    ],
)
async def test_other_types_have_no_preview_under_any_name(
    client: Server, worker: Worker, name: str, content: bytes
) -> None:
    email_id = await send(client, name=name, content=content)
    await client.until(email_id, "completed")

    await read(client, f"/emails/{email_id}/attachments/0/preview", status=415)
    assert "/preview" not in await read(client, f"/emails/{email_id}")


async def test_stream_sends_changes(client: Server) -> None:
    async with asking(client, "/live/overview", Accept="text/event-stream") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await _event(response) == "overview"
    async with asking(client, "/live/changes", Accept="text/event-stream") as response:
        assert await _event(response) == "changed"
        await client.send(client.zendesk.payload())
        assert await _event(response) == "changed"


async def test_streams_end_at_shutdown(client: Server) -> None:
    async with asking(client, "/live/overview", Accept="text/event-stream") as response:
        await _event(response)
        await asyncio.wait_for(client.stop(), 5)

        await asyncio.wait_for(response.content.read(), 5)
        assert response.content.at_eof()


async def test_number_of_streams_is_limited(client: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_STREAMS", 1)
    async with asking(client, "/live/changes", Accept="text/event-stream") as response:
        await _event(response)
        async with asking(client, "/live/changes", Accept="text/event-stream") as another:
            assert another.status == 503


async def test_long_stream_ends_so_that_the_session_is_checked(
    client: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream ends by itself, so that it cannot outlive its session."""
    monkeypatch.setattr(live, "STREAM_SECONDS", 0)
    async with asking(client, "/live/changes", Accept="text/event-stream") as response:
        assert await response.read() == b""


async def test_missing_page_gets_a_404_page(client: Server) -> None:
    for path in ("/emails/99", "/quarantine/99", "/emails/x", "/nothing", "/emails/1/attachments/0/preview"):
        assert "<h1>Not Found</h1>" in await read(client, path, status=404)


async def test_overview_is_shared_between_viewers(client: Server, database: asyncpg.Connection) -> None:
    """A snapshot younger than two seconds is reused without a query."""
    await read(client, "/")
    await database.execute("ALTER TABLE incoming_emails RENAME TO hidden")
    try:
        page = await read(client, "/")
    finally:
        await database.execute("ALTER TABLE hidden RENAME TO incoming_emails")

    assert "No e-mail came in the last 24 hours." in words_of(page)


async def _event(response: ClientResponse) -> str:
    """Return the name of the next event."""
    async with asyncio.timeout(20):
        async for line in response.content:
            if line.startswith(b"event: "):
                return line.decode().removeprefix("event: ").strip()
    raise AssertionError("the stream ended")


async def test_pages_work_with_a_session_cookie(client: Server) -> None:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:  # of an address, not a name
        form = {"name": "Mara", "token": API_TOKEN, "next": "/failures"}
        headers = {"Origin": client.url}
        async with session.post(f"{client.url}/sign-in", data=form, headers=headers) as response:
            assert response.status == 200
            assert response.url.path == "/failures"
            assert "No failures" in await response.text()
