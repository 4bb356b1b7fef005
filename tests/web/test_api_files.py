"""Files over the API: no file does anything in a browser, and a broken one is never half a file."""

import asyncio
import os
import re
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote

import asyncpg
import pytest
import structlog
from aiohttp import ClientError, web

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.web.app import create_app
from tests.conftest import API_TOKEN, Client, eventually
from tests.support.api import AUTHORIZED, EMAILS, ask, refused
from tests.support.files import add_file, object_path
from tests.support.rows import add

# ── files


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("invoice.pdf", "invoice.pdf"),
        ("Rechnung Grün €.pdf", "Rechnung Grün €.pdf"),
        ("\U0001f4e7.eml", "\U0001f4e7.eml"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\Windows\\evil.exe", "C:_Windows_evil.exe"),
        ("a\r\nSet-Cookie: a=b\r\n\r\n<script>", "a__Set-Cookie: a=b____<script>"),
        ('a".pdf; filename="evil.exe', 'a".pdf; filename="evil.exe'),
        ("a%22%0D%0A.pdf", "a%22%0D%0A.pdf"),
        ("invoice\u202efdp.exe", "invoice_fdp.exe"),
        ("\x1b[31m\x7f\x9b\u2028.txt", "_[31m___.txt"),
        ("x" * 10_000 + ".pdf", "x" * 146 + ".pdf"),
        ("..", "attachment-0"),
        (" . ", "attachment-0"),
        (".htaccess", "htaccess"),
        ("", "attachment-0"),
        (None, "attachment-0"),
    ],
)
async def test_file_is_saved_under_a_safe_name(
    client: Client, database: asyncpg.Connection, res: Resources, name: str | None, saved: str
) -> None:
    path = await add_file(database, res, b"content", name)

    response, body = await ask(client, "GET", path)

    (disposition,) = response.headers.getall("Content-Disposition")
    assert body == b"content"
    assert disposition.isascii()
    assert re.fullmatch(
        r'attachment; filename="[A-Za-z0-9._ -]+"; filename\*=UTF-8\'\'[^ "\';]+', disposition
    )
    assert unquote(disposition.partition("''")[2]) == saved
    assert "Set-Cookie" not in response.headers
    message = EmailMessage()  # as any parser of headers reads it
    message["Content-Disposition"] = disposition
    assert message.get_content_disposition() == "attachment"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", b"<!DOCTYPE html><html><script>alert(1)</script></html>"),
        ("image.svg", b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'),
        ("invoice.pdf", b"%PDF-1.7\n" + bytes(range(256))),
        ("unknown", b"\0\1\2"),
        ("empty.txt", b""),
        ("large.bin", bytes(range(256)) * 20_000),
    ],
)
async def test_headers_of_files_forbid_a_browser_to_run_them(
    client: Client, database: asyncpg.Connection, res: Resources, name: str, content: bytes
) -> None:
    path = await add_file(database, res, content, name)

    response, body = await ask(client, "GET", path)

    assert body == content
    assert response.headers["Content-Length"] == str(len(content))
    assert response.headers["Content-Disposition"].startswith("attachment;")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert "no-store" in response.headers["Cache-Control"]
    assert response.headers["Content-Type"]


@pytest.mark.parametrize("path", ["/api/v1/emails", "/api/v1/emails/1", "/api/v1/emails/1/request"])
async def test_answers_with_customer_data_are_not_cached(client: Client, zendesk: Zendesk, path: str) -> None:
    await client.send(zendesk.payload())

    response, _ = await ask(client, "GET", path)

    assert response.status == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_head_has_the_headers_of_get_and_no_body(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    path = await add_file(database, res, b"content" * 1000)
    got, _ = await ask(client, "GET", path)
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for method, asked in (("HEAD", path), ("GET", "/healthz")):  # on one connection
        head = f"{method} {asked} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {API_TOKEN}\r\n\r\n"
        writer.write(head.encode())

    first = (await reader.readuntil(b"\r\n\r\n")).decode()
    second = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()

    assert first.startswith("HTTP/1.1 200 ")
    for header in ("Content-Length", "Content-Disposition", "Content-Type", "Content-Security-Policy"):
        assert f"{header}: {got.headers[header]}\r\n" in first
    assert second.startswith("HTTP/1.1 200 ")


@pytest.mark.parametrize("status", ["pending", "failed"])
async def test_file_that_is_not_stored_gets_409(
    client: Client, database: asyncpg.Connection, status: str
) -> None:
    email_id = await add(database)
    await add(database, "attachments", email_id=email_id, position=0, source_url="https://a", status=status)

    problem = await refused(client, "GET", f"{EMAILS}/{email_id}/attachments/0/content", 409)

    assert problem["code"] == "not_stored"
    await refused(client, "GET", f"{EMAILS}/{email_id}/attachments/1/content", 404)


async def test_missing_or_damaged_object_is_an_error_not_a_partial_file(
    client: Client, database: asyncpg.Connection, res: Resources, settings: Settings
) -> None:
    path = await add_file(database, res, b"content")
    place = await object_path(database, settings)

    await asyncio.to_thread(place.write_bytes, b"cont")
    damaged = await refused(client, "GET", path, 500)
    await asyncio.to_thread(place.unlink)
    missing = await refused(client, "GET", path, 500)

    assert (damaged["code"], missing["code"]) == ("object_damaged", "object_missing")


@pytest.mark.parametrize("name", ["content", "preview"])
async def test_other_bytes_of_the_same_size_are_never_a_whole_file(
    client: Client, database: asyncpg.Connection, res: Resources, settings: Settings, name: str
) -> None:
    await add_file(database, res, b"content")
    await database.execute("UPDATE attachments SET detected_type = 'image/png'")
    place = await object_path(database, settings)
    await asyncio.to_thread(place.write_bytes, b"c0ntent")

    base = EMAILS if name == "content" else "/emails"
    problem = await refused(client, "GET", f"{base}/1/attachments/0/{name}", 500)

    assert problem["code"] == "object_damaged"


async def add_large_file(
    database: asyncpg.Connection, res: Resources, settings: Settings
) -> tuple[str, Path]:
    """Store a file larger than all buffers between the disk and a client."""
    size = 64 * 1024**2
    path = await add_file(database, res, b"content")
    place = await object_path(database, settings)
    await asyncio.to_thread(os.truncate, place, size)
    await database.execute("UPDATE attachments SET size = $1", size)
    return path, place


async def test_storage_error_during_a_download_cuts_the_connection(
    client: Client, database: asyncpg.Connection, res: Resources, settings: Settings
) -> None:
    """No second answer may end up within the first."""
    path, place = await add_large_file(database, res, settings)
    received = bytearray()

    async def read() -> None:
        async with client.session.get(client.url + path, headers=AUTHORIZED) as response:
            received.extend(await response.content.readany())
            await asyncio.to_thread(os.truncate, place, 1000)
            async for chunk in response.content.iter_any():
                received.extend(chunk)

    with structlog.testing.capture_logs() as logs, pytest.raises(ClientError):
        await read()

    assert received.startswith(b"content\0")
    assert b"HTTP/1.1" not in received
    assert [line["event"] for line in logs] == ["content_cut_short"]


async def test_disconnected_client_is_no_error(
    client: Client, database: asyncpg.Connection, res: Resources, settings: Settings
) -> None:
    path, _ = await add_large_file(database, res, settings)
    runner = web.AppRunner(create_app(settings))  # as in production, it lets handlers finish
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    with structlog.testing.capture_logs() as logs:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
        response = await client.session.get(url, headers=AUTHORIZED)
        await response.content.readany()
        response.close()
        await eventually(lambda: asyncio.sleep(0, logs))
    await runner.cleanup()

    assert [(line["event"], line["log_level"]) for line in logs] == [("content_cut_short", "warning")]
