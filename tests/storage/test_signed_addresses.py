"""A program that asks for a file is redirected to the bucket; a browser gets it from us, with protective headers."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from aiohttp import ClientResponse, web
from yarl import URL

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.telemetry import logs
from tests.conftest import API_TOKEN, Server, eventually, serving, working
from tests.support.access import session
from tests.support.api import refused
from tests.support.files import PDF, add_file
from tests.support.places import LARGEST, PREFIX, key
from tests.support.s3 import SECRET, Bucket

BEARER = {"Authorization": f"Bearer {API_TOKEN}"}
BASIC = {"Authorization": f"Basic {base64.b64encode(f'ada:{API_TOKEN}'.encode()).decode()}"}


@asynccontextmanager
async def serving_from(
    url: str, settings: Settings, zendesk: Zendesk, **more: object
) -> AsyncIterator[Server]:
    settings = settings.model_copy(update={"storage_url": url, **more})
    async with serving(settings, zendesk) as client:
        yield client


@pytest.fixture
async def client(
    bucket: Bucket, settings: Settings, zendesk: Zendesk, res: Resources
) -> AsyncIterator[Server]:
    """Run a web server whose files are in a bucket."""
    async with serving_from(f"s3://{bucket.name}/{PREFIX}", settings, zendesk) as client:
        yield client


@pytest.fixture
async def path(client: Server, database: asyncpg.Connection) -> str:
    """Store a file; return its path in the API."""
    return await add_file(database, client.res, PDF)


async def ask(
    client: Server, path: str, headers: dict[str, str], method: str = "GET"
) -> tuple[ClientResponse, bytes]:
    async with client.session.request(
        method, f"{client.url}{path}", headers=headers, allow_redirects=False
    ) as response:
        return response, await response.read()


async def follow(bucket: Bucket, address: str, method: str = "GET") -> tuple[int, bytes]:
    """Ask the bucket without credentials."""
    async with bucket.session.request(method, URL(address, encoded=True)) as response:
        return response.status, await response.read()


async def test_a_signed_address_alone_gives_the_bytes_of_a_webhooks_file(
    bucket: Bucket, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    settings = settings.model_copy(update={"storage_url": f"s3://{bucket.name}/{PREFIX}"})
    contents = [PDF, LARGEST]
    async with serving(settings, zendesk) as client, working(settings):
        urls = [zendesk.add_file(f"{len(content)}.pdf", content) for content in contents]
        receipt = await client.send(zendesk.payload(attachments=urls))
        email = await client.until(receipt["email_id"], "completed", "failed")
        answers = [await ask(client, attachment["href"], BEARER) for attachment in email["attachments"]]

    assert await bucket.objects() == {f"{PREFIX}/{key(content)}": content for content in contents}
    assert [response.status for response, _ in answers] == [302, 302]
    assert [body for _, body in answers] == [b"", b""]
    followed = [await follow(bucket, response.headers["Location"]) for response, _ in answers]
    assert followed == [(200, content) for content in contents]


@pytest.mark.parametrize("headers", [BEARER, BASIC], ids=["bearer", "basic"])
async def test_the_redirect_is_not_cached_and_reveals_neither_key_nor_token(
    client: Server, path: str, headers: dict[str, str]
) -> None:
    response, _ = await ask(client, path, headers)

    address = response.headers["Location"]
    assert response.status == 302
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert parse_qs(urlsplit(address).query)["X-Amz-Expires"] == ["300"]
    assert not [secret for secret in (SECRET, API_TOKEN) if secret in address]


async def test_a_head_gets_an_address_for_a_head(client: Server, bucket: Bucket, path: str) -> None:
    response, _ = await ask(client, path, BEARER, "HEAD")

    address = response.headers["Location"]
    assert response.status == 302
    assert await follow(bucket, address, "HEAD") == (200, b"")
    assert (await follow(bucket, address, "GET"))[0] == 403


async def test_the_setting_decides_how_long_an_address_is_valid(
    bucket: Bucket, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, res: Resources
) -> None:
    """The proxy before moto checks the time, as S3 does; moto does not."""
    url = f"s3://{bucket.name}/{PREFIX}"
    async with serving_from(url, settings, zendesk, storage_sign_seconds=3) as client:
        path = await add_file(database, client.res, PDF)
        response, _ = await ask(client, path, BEARER)
    address = response.headers["Location"]

    async def refused() -> bool:
        return (await follow(bucket, address))[0] == 403

    assert await follow(bucket, address) == (200, PDF)
    assert await eventually(refused, 10)


async def test_a_signed_in_browser_gets_the_bytes_with_protective_headers(client: Server, path: str) -> None:
    cookie = await session(client, API_TOKEN)

    response, body = await ask(client, path, cookie)
    preview, shown = await ask(client, path.removeprefix("/api/v1").replace("/content", "/preview"), cookie)

    assert (response.status, body) == (200, PDF)
    assert response.headers["Content-Disposition"].startswith("attachment;")
    assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert (preview.status, shown) == (200, PDF)
    assert "Content-Security-Policy" in preview.headers


async def test_with_zero_seconds_the_bytes_come_from_us(
    bucket: Bucket, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, res: Resources
) -> None:
    url = f"s3://{bucket.name}/{PREFIX}"
    async with serving_from(url, settings, zendesk, storage_sign_seconds=0) as client:
        path = await add_file(database, client.res, PDF)
        response, body = await ask(client, path, BEARER)

    assert (response.status, body) == (200, PDF)


async def test_a_damaged_or_missing_object_is_an_error_and_not_a_redirect(
    client: Server, bucket: Bucket, path: str
) -> None:
    await bucket.place(f"{PREFIX}/{key(PDF)}", PDF[:-1])
    damaged = await refused(client, "GET", path, 500)
    await bucket.remove(f"{PREFIX}/{key(PDF)}")
    missing = await refused(client, "GET", path, 500)

    assert (damaged["code"], missing["code"]) == ("object_damaged", "object_missing")


async def test_no_signed_address_is_logged(
    client: Server, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "DEBUG")

    response, _ = await ask(client, path, BEARER)
    await ask(client, path, {"Authorization": "Bearer wrong"})

    signature = parse_qs(urlsplit(response.headers["Location"]).query)["X-Amz-Signature"][0]
    written = capsys.readouterr()
    assert len(signature) == 64
    assert signature not in written.out + written.err
    assert "token_refused" in written.out, "a log would be seen"


async def test_the_openapi_document_describes_the_redirect(client: Server, path: str) -> None:
    response, _ = await ask(client, path, BEARER)

    openapi = await client.get("/openapi.json")
    operation = openapi["paths"]["/api/v1/emails/{id}/attachments/{position}/content"]["get"]
    described = operation["responses"][str(response.status)]
    assert set(described["headers"]) <= set(response.headers)
    assert described["headers"]["Location"]["required"]
    assert "content" not in described
    assert {"200", "302"} <= set(operation["responses"])


async def test_a_bucket_that_cannot_sign_is_read_by_us(
    settings: Settings,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    res: Resources,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With an identity instead of a key, Azure has to be asked for a key to sign with."""
    logs.configure("json", "INFO")
    asked: list[str] = []

    async def azure(request: web.Request) -> web.StreamResponse:
        # https://learn.microsoft.com/en-us/rest/api/storageservices/get-user-delegation-key
        if request.query.get("comp") == "userdelegationkey":
            asked.append(request.method)
            text = "<?xml version='1.0'?><Error><Code>AuthorizationPermissionMismatch</Code></Error>"
            return web.Response(status=403, content_type="application/xml", text=text)
        headers = {"ETag": '"1"', "Last-Modified": "Fri, 27 Nov 2026 12:00:00 GMT"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(PDF))})
        sent = f"bytes 0-{len(PDF) - 1}/{len(PDF)}"
        return web.Response(status=206, headers={**headers, "Content-Range": sent}, body=PDF)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", azure)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "token-of-an-identity")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    path = await add_file(database, res, PDF)

    async with serving_from("az://container/prefix", settings, zendesk) as client:
        response, body = await ask(client, path, BEARER)
    await runner.cleanup()

    log = capsys.readouterr().out
    assert (response.status, body) == (200, PDF)
    assert asked == ["POST"]
    assert "signing_failed" in log
    assert "AuthorizationPermissionMismatch" in log
