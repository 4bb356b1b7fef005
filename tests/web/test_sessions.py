"""Sessions of browsers: cookies, their end, signing in and out, and requests of other sites."""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import DummyCookieJar
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.web.auth import sessions
from tests.conftest import API_TOKEN, Server, serving
from tests.support.access import (
    BROWSER,
    READ_TOKEN,
    ask,
    basic,
    code_of,
    cookie,
    headers_of,
    serving_readers,
    session,
    sign_in,
)
from tests.support.api import EMAILS
from tests.support.proxy import before_postgres
from tests.support.rows import add


@pytest.fixture
async def client(settings: Settings, zendesk: Zendesk, res: Resources) -> AsyncIterator[Server]:
    async with serving_readers(settings, zendesk) as client:
        yield client


async def test_cookie_is_http_only_and_same_site(client: Server) -> None:
    morsel = cookie(await sign_in(client, API_TOKEN))

    assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Lax", "/")
    assert (morsel["max-age"], morsel["secure"], morsel["domain"]) == (str(12 * 3600), "", "")
    assert API_TOKEN not in morsel.value


@pytest.mark.parametrize("proto", ["https", "HTTPS, http"])
async def test_cookie_over_https_is_secure(client: Server, proto: str) -> None:
    headers = {"Sec-Fetch-Site": "same-origin", "X-Forwarded-Proto": proto}

    response = await ask(client, "POST", "/sign-in", data={"token": API_TOKEN}, headers=headers)

    assert cookie(response)["secure"] is True


async def test_forged_name_in_a_cookie_is_shortened_and_cleaned(
    client: Server, database: asyncpg.Connection
) -> None:
    email_id = await add(database, processing_status="failed")
    value = URLSafeTimedSerializer(
        API_TOKEN,
        salt="holdfast session operator",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    ).dumps("a\0b" * 100)
    headers = {"Sec-Fetch-Site": "same-origin", "Cookie": f"{sessions.COOKIE}={value}"}

    response = await ask(client, "POST", f"/api/v1/emails/{email_id}/retry", headers=headers)

    assert response.status == 202
    actor = await database.fetchval("SELECT actor FROM operator_actions")
    assert actor == f"{('a?b' * 100)[:100]} (dashboard)"


def forged(token: str, signer: type[TimestampSigner] | None = None, **how: Any) -> str:
    salt = "holdfast session operator"
    value = URLSafeTimedSerializer(token, salt=salt, signer=signer, signer_kwargs=how).dumps("ada")
    assert isinstance(value, str)
    return value


async def test_forged_cookie_is_refused(client: Server) -> None:
    good = cookie(await sign_in(client, API_TOKEN, name="ada")).value
    reading = cookie(await sign_in(client, READ_TOKEN)).value
    name, time, signature = good.split(".")
    changed = base64.urlsafe_b64encode(b'"eve"').decode().rstrip("=")
    wrong = [
        "",
        ".",
        good[:-1],
        f"{changed}.{time}.{signature}",
        f"{name}.{time}.{reading.split('.')[2]}",
        f"{name}.zzzzzz.{signature}",
        forged(API_TOKEN),
        forged("another token"),
    ]

    assert (await ask(client, "GET", EMAILS, headers={"Cookie": f"{sessions.COOKIE}={good}"})).status == 200
    for value in wrong:
        headers = {"Cookie": f"{sessions.COOKIE}={value}"}
        assert (await ask(client, "GET", EMAILS, headers=headers)).status == 401, value


class Ago(TimestampSigner):
    """Sign with a time in the past."""

    seconds = 0

    def get_timestamp(self) -> int:
        return int(time.time()) - self.seconds


@pytest.mark.parametrize(("hours", "status"), [(11, 200), (13, 401)])
async def test_session_expires(client: Server, hours: int, status: int) -> None:
    class Signer(Ago):
        seconds = hours * 3600

    value = forged(API_TOKEN, signer=Signer, key_derivation="hmac", digest_method=hashlib.sha256)

    response = await ask(client, "GET", EMAILS, headers={"Cookie": f"{sessions.COOKIE}={value}"})

    assert response.status == status


async def test_new_token_ends_the_sessions_of_the_old_one(
    client: Server, settings: Settings, zendesk: Zendesk
) -> None:
    headers = await session(client, API_TOKEN)

    async with serving(settings.model_copy(update={"api_token": SecretStr("new")}), zendesk) as other:
        assert (await ask(other, "GET", EMAILS, headers=headers)).status == 401


async def test_sign_out_ends_this_session_in_every_process(
    client: Server, settings: Settings, zendesk: Zendesk
) -> None:
    """This includes copies of the cookie, also with another spelling of the signature."""
    ending, other = await session(client, API_TOKEN, name="ada"), await session(client, API_TOKEN, name="ada")
    value = ending["Cookie"]
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same = [value[:-1] + letter for letter in last]

    async with serving(settings, zendesk) as elsewhere:
        assert (await ask(elsewhere, "GET", EMAILS, headers=ending)).status == 200
        await ask(client, "POST", "/sign-out", headers=ending | {"Sec-Fetch-Site": "same-origin"})
        ended = [
            (await ask(server, "GET", EMAILS, headers={"Cookie": cookie})).status
            for server in (client, elsewhere)
            for cookie in (value, *same)
        ]
        page = await ask(elsewhere, "GET", "/emails", headers=ending | BROWSER)
        others = await ask(elsewhere, "GET", EMAILS, headers=other)
        again = await session(elsewhere, API_TOKEN, name="ada")
        anew = await ask(client, "GET", EMAILS, headers=again)

    assert set(ended) == {401}
    assert (page.status, page.headers["Location"]) == (303, "/sign-in?next=/emails")
    assert (others.status, anew.status) == (200, 200)


async def test_sign_out_ends_the_streams_of_the_session(client: Server) -> None:
    headers = await session(client, API_TOKEN)
    async with client.session.get(f"{client.url}/live/changes", headers=headers) as stream:
        assert (await stream.content.readline()).startswith(b"event: changed")

        await ask(client, "POST", "/sign-out", headers=headers | {"Sec-Fetch-Site": "same-origin"})

        await asyncio.wait_for(stream.content.read(), 60)  # a stream goes on for minutes otherwise


async def test_session_of_the_previous_version_can_be_ended(client: Server) -> None:
    value = forged(API_TOKEN, key_derivation="hmac", digest_method=hashlib.sha256)
    headers = {"Cookie": f"{sessions.COOKIE}={value}", "Sec-Fetch-Site": "same-origin"}

    before = await ask(client, "GET", EMAILS, headers=headers)
    await ask(client, "POST", "/sign-out", headers=headers)
    after = await ask(client, "GET", EMAILS, headers=headers)

    assert (before.status, after.status) == (200, 401)


async def test_ended_session_is_deleted_after_its_expiry(
    client: Server, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO ended_sessions (id, ended_at) VALUES ('old', now() - interval '14 hours'), ('new', now())"
    )

    headers = await session(client, API_TOKEN) | {"Sec-Fetch-Site": "same-origin"}
    await ask(client, "POST", "/sign-out", headers=headers)

    kept = {row["id"] for row in await database.fetch("SELECT id FROM ended_sessions")}
    assert len(kept) == 2
    assert "new" in kept


async def test_without_token_nobody_can_add_ended_sessions(
    client: Server, database: asyncpg.Connection
) -> None:
    for value in ("", "eA.eA.eA", forged("another token")):
        headers = {"Cookie": f"{sessions.COOKIE}={value}", "Sec-Fetch-Site": "same-origin"}
        assert (await ask(client, "POST", "/sign-out", headers=headers)).status == 303

    assert await database.fetchval("SELECT count(*) FROM ended_sessions") == 0


async def test_without_postgres_cookies_are_refused_with_a_reason(
    settings: Settings, zendesk: Zendesk
) -> None:
    async with before_postgres(settings) as (proxy, through), serving(through, zendesk) as client:
        client.session._cookie_jar = DummyCookieJar()
        headers = await session(client, API_TOKEN)
        proxy.cut()

        page = await ask(client, "GET", "/", headers=headers | BROWSER)
        left = await ask(client, "POST", "/sign-out", headers=headers | {"Sec-Fetch-Site": "same-origin"})

        assert (page.status, left.status) == (503, 503)
        assert "sessions cannot be checked" in await page.text()
        assert "still signed in" in await left.text()
        assert "Set-Cookie" not in left.headers
        await proxy.resume()


# ── origins

SAME = "http://{host}"
ORIGINS: list[tuple[dict[str, str], bool]] = [
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": SAME}, False),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"}, True),
    ({"Origin": SAME}, True),
    ({"Origin": "https://{host}"}, True),  # a proxy terminates https
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "http://{host}.evil.example"}, False),
    ({"Origin": "http://127.0.0.1"}, False),  # another port
    ({"Origin": "null"}, False),
    ({"Origin": "http://["}, False),
    ({"Origin": ""}, False),
]


@pytest.mark.parametrize("way", ["basic", "session", "bearer"])
async def test_request_caused_by_another_site_is_refused(client: Server, way: str) -> None:
    host = client.url.removeprefix("http://")
    credentials = await headers_of(client, way, API_TOKEN)
    credentials.pop("Sec-Fetch-Site", None)
    for headers, is_let_in in ORIGINS:
        from_there = {name: value.format(host=host) for name, value in headers.items()}

        response = await ask(client, "POST", f"{EMAILS}/1/retry", headers=credentials | from_there)

        is_read = is_let_in or way == "bearer"  # browsers never send it by themselves
        expected = (404, "email_not_found") if is_read else (403, "foreign_origin")
        assert (response.status, await code_of(response)) == expected, headers


async def test_browser_without_origin_headers_may_read_but_not_act(
    client: Server, database: asyncpg.Connection
) -> None:
    await add(database, processing_status="failed")
    headers = await session(client, API_TOKEN)

    looked = await ask(client, "GET", EMAILS, headers=headers)
    acted = await ask(client, "POST", f"{EMAILS}/1/retry", headers=headers)
    by_curl = await ask(client, "POST", f"{EMAILS}/1/retry", headers=basic(API_TOKEN))

    assert (looked.status, acted.status, by_curl.status) == (200, 403, 202)


async def test_another_site_cannot_sign_a_browser_in_or_out(client: Server) -> None:
    for path in ("/sign-in", "/sign-out"):
        headers = {"Origin": "https://evil.example"}
        response = await ask(client, "POST", path, data={"token": API_TOKEN}, headers=headers)

        assert (response.status, await code_of(response)) == (403, "foreign_origin")
        assert "Set-Cookie" not in response.headers
