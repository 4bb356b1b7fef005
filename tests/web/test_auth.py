"""Authentication of operators and readers: by header, by Basic, by session in a browser."""

import asyncio
import base64
import html
import json
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest
import structlog
from aiohttp import web
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.web.auth import sessions
from service.web.auth.tokens import MOST_REFUSALS, REFUSALS
from service.web.handling.keys import IDENTITY
from tests.conftest import API_TOKEN, Server, serving
from tests.support.access import (
    BROWSER,
    READ_TOKEN,
    ask,
    basic,
    bearer,
    code_of,
    cookie,
    headers_of,
    serving_readers,
    session,
    sign_in,
)
from tests.support.api import EMAILS
from tests.support.rows import add

OPEN = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/errors", "/static/base.css"]


@pytest.fixture
async def client(settings: Settings, zendesk: Zendesk, res: Resources) -> AsyncIterator[Server]:
    async with serving_readers(settings, zendesk) as client:
        yield client


# ── roles


@pytest.mark.parametrize("way", ["bearer", "basic", "session"])
async def test_operator_may_read_and_act(client: Server, database: asyncpg.Connection, way: str) -> None:
    await add(database, processing_status="failed")
    headers = await headers_of(client, way, API_TOKEN)

    looked = await ask(client, "GET", EMAILS, headers=headers)
    acted = await ask(client, "POST", f"{EMAILS}/1/retry", headers=headers)

    assert (looked.status, acted.status) == (200, 202)


@pytest.mark.parametrize("way", ["bearer", "basic", "session"])
async def test_reader_may_read_but_not_act(client: Server, database: asyncpg.Connection, way: str) -> None:
    await add(database, processing_status="failed")
    headers = await headers_of(client, way, READ_TOKEN)

    for method in ("GET", "HEAD"):
        assert (await ask(client, method, EMAILS, headers=headers)).status == 200
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        refused = await ask(client, method, f"{EMAILS}/1/retry", headers=headers)
        assert (refused.status, await code_of(refused)) == (403, "read_only")
    assert await database.fetchval("SELECT processing_status FROM incoming_emails") == "failed"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        basic("wrong"),
        basic(""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": f"Basic {base64.b64encode(API_TOKEN.encode()).decode()}"},  # no colon
        {"Authorization": f"Digest {API_TOKEN}"},
        {"Cookie": f"{sessions.COOKIE}={API_TOKEN}"},
        {"Cookie": f"{sessions.COOKIE}=\u00e9.\ud7ff.x"},
    ],
)
async def test_request_without_token_gets_401_with_instructions(
    client: Server, headers: dict[str, str]
) -> None:
    for path in (EMAILS, "/api/v1/nothing"):
        response = await ask(client, "GET", path, headers=headers)

        assert (response.status, await code_of(response)) == (401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_open_paths_need_no_token(client: Server) -> None:
    for path in OPEN:
        for method in ("GET", "HEAD"):
            assert (await ask(client, method, path)).status == 200, path


async def test_name_of_the_operator_is_saved_with_the_action(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    long = "\x1b[31m\u202eada" + "x" * 200
    named = await session(client, API_TOKEN, name=" Grace ") | {"Sec-Fetch-Site": "same-origin"}
    unnamed = await session(client, API_TOKEN) | {"Sec-Fetch-Site": "same-origin"}
    ways = [
        (bearer(API_TOKEN), "api token"),
        (bearer(API_TOKEN) | {"X-Operator": "ada"}, "ada (api)"),
        (basic(API_TOKEN), "ada (basic)"),
        (basic(API_TOKEN, long), "?[31m?ada" + "x" * 91 + " (basic)"),
        (basic(API_TOKEN, ""), "basic token"),
        (named, "Grace (dashboard)"),
        (unnamed, "dashboard token"),
    ]
    for number, (headers, _) in enumerate(ways, start=1):
        await add(database, processing_status="failed")
        assert (await ask(client, "POST", f"{EMAILS}/{number}/retry", headers=headers)).status == 202

    actors = await database.fetch("SELECT actor FROM operator_actions ORDER BY id")

    assert [row["actor"] for row in actors] == [actor for _, actor in ways]


async def test_wrong_tokens_are_not_logged_and_cause_few_log_lines(client: Server) -> None:
    with structlog.testing.capture_logs() as logs:
        for headers in (bearer("hunter2"), basic("hunter2"), bearer("hunter2")):
            await ask(client, "GET", EMAILS, headers=headers)
        await sign_in(client, "hunter2")

    assert [line["event"] for line in logs] == ["token_refused"]
    assert "hunter2" not in str(logs)


# ── no token set


async def test_without_any_token_set_the_page_names_the_setting(settings: Settings, zendesk: Zendesk) -> None:
    async with serving(settings.model_copy(update={"api_token": None}), zendesk) as client:
        for path in ("/sign-in", "/sign-in?next=/docs"):
            response = await ask(client, "GET", path, headers=BROWSER)

            assert (response.status, response.content_type) == (403, "text/html")
            assert "set API_TOKEN" in await response.text()
        posted = await sign_in(client, "")
        api = await ask(client, "GET", EMAILS, headers=BROWSER)

        assert posted.status == 403
        assert "Set-Cookie" not in posted.headers
        assert (api.status, await code_of(api)) == (403, "api_closed")
        for path in OPEN:
            assert (await ask(client, "GET", path)).status == 200


async def test_with_only_the_read_token_set_readers_get_in(settings: Settings, zendesk: Zendesk) -> None:
    only = settings.model_copy(update={"api_token": None, "api_read_token": SecretStr(READ_TOKEN)})
    async with serving(only, zendesk) as client:
        assert (await ask(client, "GET", EMAILS, headers=bearer(READ_TOKEN))).status == 200
        assert (await ask(client, "GET", EMAILS, headers=bearer(""))).status == 401
        assert (await ask(client, "GET", EMAILS, headers=bearer("None"))).status == 401


# ── wrong tokens


async def test_only_few_wrong_tokens_are_delayed_at_once(client: Server) -> None:
    refusals = client._runner.app[REFUSALS]
    guesses = [asyncio.create_task(ask(client, "GET", EMAILS, headers=bearer("hunter2"))) for _ in range(40)]
    most = 0
    while not all(guess.done() for guess in guesses):
        most = max(most, refusals.waiting)
        await asyncio.sleep(0.01)

    assert {guess.result().status for guess in guesses} == {401}
    assert 1 <= most <= MOST_REFUSALS
    assert refusals.waiting == 0


async def test_during_many_guesses_right_tokens_work_and_wrong_ones_get_429_at_once(
    client: Server,
) -> None:
    client._runner.app[REFUSALS].waiting = MOST_REFUSALS

    right = await ask(client, "GET", EMAILS, headers=bearer(API_TOKEN))
    signed_in = await sign_in(client, READ_TOKEN)
    wrong = await ask(client, "GET", EMAILS, headers=basic("hunter2"))
    form = await sign_in(client, "hunter2")

    assert (right.status, signed_in.status) == (200, 303)
    assert (wrong.status, await code_of(wrong)) == (401, "unauthorized")
    assert (form.status, await code_of(form)) == (429, "too_many_guesses")
    assert "Retry-After" in form.headers
    assert client._runner.app[REFUSALS].waiting == MOST_REFUSALS


# ── restrictions of readers


async def test_readers_see_no_signature_and_only_harmless_headers(
    client: Server, database: asyncpg.Connection
) -> None:
    headers = [
        ["X-Zendesk-Webhook-Signature", "c2lnbmF0dXJl"],
        ["Content-Type", "application/json"],
        ["X-Company-Pass", "letmein"],
        ["X-Forwarded-For", "203.0.113.7"],
    ]
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, raw_body, raw_headers) VALUES ('1', '{}', $1)",
        json.dumps(headers),
    )
    await database.execute(
        "INSERT INTO quarantined_webhooks (idempotency_key, raw_body, raw_headers, error_code, error)"
        " VALUES ('k', '{}', $1, 'bad', 'It is bad')",
        json.dumps(headers),
    )
    places = (f"{EMAILS}/1/request", "/api/v1/quarantine/1", "/emails/1", "/quarantine/1")
    for path in places:
        reads = await (await ask(client, "GET", path, headers=bearer(READ_TOKEN))).text()
        acts = await (await ask(client, "GET", path, headers=bearer(API_TOKEN))).text()

        for secret in ("c2lnbmF0dXJl", "letmein", "203.0.113.7"):
            assert secret not in reads, path
            assert secret in acts, path
        assert "application/json" in reads
        assert "X-Company-Pass" in reads
        assert "[hidden]" in reads


# ── headers


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/nothing", EMAILS, "/static/base.css"])
@pytest.mark.parametrize(
    ("public_url", "proto", "is_told"),
    [
        ("https://holdfast.acme.example", "", True),
        ("http://127.0.0.1", "", False),
        (None, "https", True),
        (None, "", False),
    ],
)
async def test_browsers_are_told_to_use_https_where_available(
    settings: Settings, zendesk: Zendesk, path: str, public_url: str | None, proto: str, *, is_told: bool
) -> None:
    async with serving(settings.model_copy(update={"public_url": public_url}), zendesk) as client:
        answer = await ask(client, "GET", path, headers={"X-Forwarded-Proto": proto})
        signed_in = await sign_in(client, API_TOKEN)

    assert (answer.headers.get("Strict-Transport-Security") == "max-age=31536000") is is_told
    assert answer.headers["Server"] == "holdfast"
    assert bool(cookie(signed_in)["secure"]) is bool(public_url and public_url.startswith("https:"))


async def test_sign_out_deletes_the_cookie(client: Server) -> None:
    headers = await session(client, READ_TOKEN) | {"Sec-Fetch-Site": "same-origin"}

    response = await ask(client, "POST", "/sign-out", headers=headers)

    assert (response.status, response.headers["Location"]) == (303, "/sign-in")
    assert (cookie(response).value, cookie(response)["max-age"]) == ("", "0")


# ── the sign-in page


async def test_wrong_token_gives_an_error_on_the_page_and_is_not_shown(client: Server) -> None:
    response = await sign_in(client, "hunter2", name='<b>"ada', next="/docs")

    text = await response.text()
    assert response.status == 403
    assert "Token not recognised." in text
    assert 'value="&lt;b&gt;&#34;ada"' in text
    assert 'value="/docs"' in text
    assert "hunter2" not in text
    assert "Set-Cookie" not in response.headers


async def test_open_pages_forbid_foreign_scripts_caches_and_frames(client: Server) -> None:
    for path, scripts in (("/sign-in", 0), ("/docs", 1)):
        response = await ask(client, "GET", path, headers=BROWSER)

        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        nonces = re.findall(r"script-src ([^;]*)", policy)
        assert len(nonces) == scripts
        assert response.headers["X-Frame-Options"] == "DENY"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        text = await response.text()
        ours = [f"'nonce-{nonce}'" for nonce in re.findall(r'<script src="/[^"]+" nonce="([^"]+)"', text)]
        assert ours == nonces, "a script of the page itself, or of another host"
        assert text.count("<script") == scripts
        assert not re.search(r"(src|href|action)=\"(?![/#])", text), "an address of another host"
        assert " style=" not in text


PLACES = [
    ("/", "/"),
    ("/docs", "/docs"),
    ("/emails?status=failed&q=%C3%A9#x", "/emails?status=failed&q=%C3%A9#x"),
    ("", "/"),
    ("docs", "/"),
    ("//evil.example", "/"),
    ("///evil.example", "/"),
    ("/\\evil.example", "/"),
    ("\\\\evil.example", "/"),
    ("https://evil.example", "/"),
    ("javascript:alert(1)", "/"),
    ("/\t/evil.example", "/"),
    ("/\r\nSet-Cookie: a=b", "/"),
    (" //evil.example", "/"),
    ("/\u2028", "/"),
    ("/" + "x" * 5000, "/"),
]


async def test_sign_in_redirects_only_within_the_service(client: Server) -> None:
    for place, leads_to in PLACES:
        response = await sign_in(client, API_TOKEN, next=place)

        assert (response.status, response.headers["Location"]) == (303, leads_to), place


@pytest.mark.parametrize(
    "body",
    [b"token=%FF", b"token=\xff", b"&".join([b"a=b"] * 101), b"name=" + b"x" * 70_000],
)
async def test_body_that_is_no_sign_in_form_is_refused(client: Server, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}

    response = await ask(client, "POST", "/sign-in", data=body, headers=headers)

    assert response.status in {400, 403, 413}
    assert "Set-Cookie" not in response.headers


async def page(request: web.Request) -> web.Response:
    return web.Response(text=request[IDENTITY].actor)


async def test_browser_is_redirected_to_sign_in_and_back(settings: Settings, zendesk: Zendesk) -> None:
    async with serving(settings, zendesk, [web.get("/page", page)]) as client:
        wanted = "/page?a=1&b=%26"
        led = await ask(client, "GET", wanted, headers=BROWSER)
        form = await ask(client, "GET", led.headers["Location"], headers=BROWSER)
        (place,) = re.findall(r'name="next" value="([^"]*)"', await form.text())
        signed_in = await sign_in(client, API_TOKEN, next=html.unescape(place), name="ada")
        cookies = {"Cookie": f"{sessions.COOKIE}={cookie(signed_in).value}"}
        back = await ask(client, "GET", signed_in.headers["Location"], headers=cookies)

        assert (led.status, form.status, signed_in.status) == (303, 200, 303)
        assert signed_in.headers["Location"] == wanted
        assert await back.text() == "ada (dashboard)"
        for headers in ({}, {"Accept": "application/json"}):
            assert (await ask(client, "GET", wanted, headers=headers)).status == 401
        assert (await ask(client, "POST", wanted, headers=BROWSER)).status == 405
