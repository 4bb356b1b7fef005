"""Messages over HTTP: whole or an error, harmless in a browser, and the same for every reader."""

import asyncio
import hashlib
import io
import json
import zipfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientError
from arq.worker import Worker

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from tests.conftest import Client, serving
from tests.support.api import AUTHORIZED, EMAILS, ask, refused
from tests.support.files import PDF
from tests.support.messages import ORIGINAL, PNG, add_message, announce, attach
from tests.support.rows import NOON, add

HREFS = {
    "text_href": f"{EMAILS}/1/message.txt",
    "html_href": f"{EMAILS}/1/message.html",
    "original_href": f"{EMAILS}/1/original.eml",
    "record_href": f"{EMAILS}/1/record.json",
}


def place_of(settings: Settings, key: str) -> Path:
    return Path(str(settings.storage_url).removeprefix("file://")) / key


# ── the message of an e-mail


async def test_message_is_part_of_its_email(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    email_id = await add(database, subject="Old", from_email="bot@acme.example", from_name="Bot")
    await add_message(database, res, email_id, html="<p>Hello</p>", original=ORIGINAL)

    email = await client.email(email_id)

    assert email["message"] | {"fetched_at": None} == {
        "source": "zendesk",
        "comment_id": "9001",
        "direction": "inbound",
        "public": True,
        "subject": "Invoice",
        "from": {"name": "Ann", "address": "ann@customer.example"},
        "to": [{"name": "Acme", "address": "support@acme.example"}],
        "cc": [{"name": None, "address": "bob@customer.example"}],
        "message_id": "<one@customer.example>",
        "sent_at": NOON.isoformat().replace("+00:00", "Z"),
        "text": "The invoice is attached.",
        "text_size": 24,
        "fetched_at": None,
        **HREFS,
    }
    assert email["message"]["fetched_at"]
    shown = (email["subject"], email["from_email"], email["from_name"])
    assert shown == ("Invoice", "ann@customer.example", "Ann")


async def test_list_has_subject_sender_and_date_of_the_message(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    for subject in ("Old", "Kept"):
        await add(database, subject=subject, from_email="bot@acme.example", from_name="Bot")
    await add_message(database, res, 1, subject="s" * 1000)
    await add_message(database, res, 2, subject=None, from_name=None, sent_at=None)

    newer, older = (await client.get(EMAILS))["emails"]

    assert (older["subject"], older["sent_at"]) == ("s" * 300, "2025-11-03T12:00:00Z")
    assert (older["from_email"], older["from_name"]) == ("ann@customer.example", "Ann")
    assert (newer["subject"], newer["sent_at"]) == ("Kept", None)
    assert (newer["from_email"], newer["from_name"]) == ("ann@customer.example", None)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"body_text": "Hello"}, "Hello"),
        ({"ticket": {"description": "first", "latest_comment": {"body": "Hello"}}}, "Hello"),
        ({"event": {"comment": {"body": "Hello", "html_body": "<p>"}}, "type": "x"}, "Hello"),
        ({"ticket": {"description": "Hello"}}, "Hello"),
        ({"latestCommentBody": "Hello", "description": "first"}, "Hello"),
        ({"body": " ", "text": 1, "subject": "no"}, None),
        ({}, None),
        ([], None),
    ],
)
async def test_message_of_the_webhook_stands_in_until_one_is_fetched(
    client: Client, database: asyncpg.Connection, body: object, text: str | None
) -> None:
    await add(
        database,
        raw_body=json.dumps(body).encode(),
        raw_headers="[]",
        subject="Invoice",
        from_email="ann@customer.example",
        comment_id="12",
        sent_at=NOON,
    )

    message = (await client.email(1))["message"]

    assert message == {
        **dict.fromkeys(("direction", "public", "message_id", "fetched_at")),
        **dict.fromkeys(HREFS),
        "text_href": text and HREFS["text_href"],
        "source": "webhook",
        "comment_id": "12",
        "subject": "Invoice",
        "from": {"name": None, "address": "ann@customer.example"},
        "to": [],
        "cc": [],
        "sent_at": "2025-11-03T12:00:00Z",
        "text": text,
        "text_size": len(text or ""),
    }


@pytest.mark.parametrize("columns", [{}, {"raw_body": b"\xff{", "raw_headers": "[]"}])
async def test_message_is_null_if_nothing_is_known(
    client: Client, database: asyncpg.Connection, columns: dict[str, Any]
) -> None:
    await add(database, **columns)

    assert (await client.email(1))["message"] is None
    for part in ("message.txt", "message.html", "original.eml", "record.json"):
        problem = await refused(client, "GET", f"{EMAILS}/1/{part}", 404)
        assert problem["code"] == "message_not_found"


# ── its parts


@pytest.mark.parametrize("length", [10, 70_000, 2**20])
async def test_text_is_whole_whatever_its_length(
    client: Client, database: asyncpg.Connection, res: Resources, length: int
) -> None:
    text = "ü\u200d👩 \ud800"[:4] * (length // 4)
    await add(database)
    await add_message(database, res, 1, text)

    response, body = await ask(client, "GET", f"{EMAILS}/1/message.txt")

    assert body.decode() == text
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    message = (await client.email(1))["message"]
    assert message["text_size"] == len(body)
    assert len(message["text"].encode()) <= 65_536


async def test_record_that_is_too_large_to_be_read_can_still_be_downloaded(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    await add(database)
    comment = await add_message(database, res, 1, "x" * 5 * 2**20)

    problem = await refused(client, "GET", f"{EMAILS}/1/message.txt", 422)
    _, record = await ask(client, "GET", f"{EMAILS}/1/record.json")
    files = await archive_of(client)

    assert problem["code"] == "message_too_large"
    assert json.loads(record) == comment
    assert list(files) == ["record.json", "manifest.json"]
    missing = json.loads(files["manifest.json"])["missing"]
    assert [each["name"] for each in missing] == ["message.txt", "original.eml"]


async def test_whole_text_of_a_webhook(client: Client, database: asyncpg.Connection) -> None:
    text = "Grüße\n" * 20_000
    await add(database, raw_body=json.dumps({"body": text}).encode(), raw_headers="[]")

    _, body = await ask(client, "GET", f"{EMAILS}/1/message.txt")

    assert body.decode() == text
    assert len((await client.email(1))["message"]["text"].encode()) == 65_536


async def test_record_and_original_are_byte_for_byte(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    await add(database)
    comment = await add_message(database, res, 1, "\ud800", original=ORIGINAL)

    original, eml = await ask(client, "GET", f"{EMAILS}/1/original.eml")
    _, record = await ask(client, "GET", f"{EMAILS}/1/record.json")

    assert eml == ORIGINAL
    assert original.headers["Content-Type"] == "message/rfc822"
    assert original.headers["Content-Disposition"].startswith('attachment; filename="email-1.eml"')
    assert original.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert json.loads(record) == comment


async def test_part_that_zendesk_did_not_give_is_not_found(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    await add(database)
    await add_message(database, res, 1, original=None)

    message = (await client.email(1))["message"]

    assert (message["html_href"], message["original_href"]) == (None, None)
    for part in ("message.html", "original.eml"):
        assert (await refused(client, "GET", f"{EMAILS}/1/{part}", 404))["code"] == "message_not_found"


@pytest.mark.parametrize("size", [24, 5 * 2**20])
@pytest.mark.parametrize("part", ["record.json", "original.eml"])
async def test_damaged_or_missing_object_is_never_a_whole_answer(
    client: Client, database: asyncpg.Connection, res: Resources, settings: Settings, part: str, size: int
) -> None:
    await add(database)
    await add_message(database, res, 1, "x" * size, original=b"x" * size)
    column = f"{part.partition('.')[0]}_key"
    place = place_of(settings, await database.fetchval(f"SELECT {column} FROM messages"))
    content = bytearray(await asyncio.to_thread(place.read_bytes))
    content[-1] ^= 1

    await asyncio.to_thread(place.write_bytes, content)
    if size > 2**21:  # the last piece is held back, and the connection is cut
        with pytest.raises(ClientError):
            await ask(client, "GET", f"{EMAILS}/1/{part}")
    else:
        assert (await refused(client, "GET", f"{EMAILS}/1/{part}", 500))["code"] == "object_damaged"
    await asyncio.to_thread(place.unlink)
    assert (await refused(client, "GET", f"{EMAILS}/1/{part}", 500))["code"] == "object_missing"


@pytest.mark.parametrize("part", ["message.txt", "message.html", "original.eml", "archive.zip"])
async def test_head_has_no_body_and_readers_may_read(
    client: Client, database: asyncpg.Connection, res: Resources, part: str
) -> None:
    await add(database)
    await add_message(database, res, 1, html="<p>x", original=ORIGINAL)

    response, body = await ask(client, "HEAD", f"{EMAILS}/1/{part}")

    assert (response.status, body) == (200, b"")
    await refused(client, "GET", f"{EMAILS}/1/{part}", 401, headers={})


# ── the HTML


async def html_of(client: Client) -> str:
    response, body = await ask(client, "GET", f"{EMAILS}/1/message.html")
    assert response.status == 200, body
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    return body.decode()


async def test_html_shows_our_copies_of_its_images_and_no_others(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    await add(database)
    large = PNG + bytes(5 * 2**20 + 1)
    url, large_url = (
        await attach(database, res, 1, 0),
        await attach(database, res, 1, 1, large),
    )
    script = await attach(database, res, 1, 2, b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg")
    lost = await attach(database, res, 1, 3, status="failed", object_key=None)
    images = [f"{url}&amp;x=1", large_url, script, lost, "https://tracker.example/1.png", "data:text/html,x"]
    html = "".join(f'<img src="{image}" alt="{place}">' for place, image in enumerate(images))
    await add_message(database, res, 1, html=html)

    page = await html_of(client)

    data = "data:image/png;base64,"
    assert page.count("<img") == 6
    assert page.count(' src="') == 2
    assert f'src="{data}{b64encode(PNG).decode()}"' in page
    assert f'src="{data}{b64encode(large).decode()}"' in page
    assert 'alt="4"' in page
    assert "tracker.example" not in page


async def test_damaged_image_is_left_out(
    client: Client, database: asyncpg.Connection, res: Resources, settings: Settings
) -> None:
    await add(database)
    url = await attach(database, res, 1, 0)
    await add_message(database, res, 1, html=f'<p>before<img src="{url}">after')
    place = place_of(settings, await database.fetchval("SELECT object_key FROM attachments"))
    await asyncio.to_thread(place.write_bytes, PNG[:-1] + b"x")

    page = await html_of(client)

    assert 'before<img src="">after' in page
    assert page.rstrip().endswith("</html>")


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 150_000,
        "<p " + " ".join(f"a{number}=1" for number in range(150_000)) + ">",
        "<p>" + "x" * (2 * 2**20),
    ],
    ids=["nested", "attributes", "large"],
)
async def test_html_that_takes_too_long_to_read_is_refused_and_the_text_is_still_there(
    client: Client, database: asyncpg.Connection, res: Resources, html: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.queries.message_html.WALL_SECONDS", 1.0)
    await add(database)
    await add_message(database, res, 1, html=html)

    problem = await refused(client, "GET", f"{EMAILS}/1/message.html", 422)

    assert problem["code"] == "message_too_large"
    assert (await ask(client, "GET", f"{EMAILS}/1/message.txt"))[1] == b"The invoice is attached."


# ── the archive


async def archive_of(client: Client, email_id: int = 1) -> dict[str, bytes]:
    response, body = await ask(client, "GET", f"{EMAILS}/{email_id}/archive.zip")
    assert response.status == 200, body
    assert response.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


async def test_archive_has_everything_and_a_manifest_with_its_hashes(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    await add(database, received_at=NOON)
    url = await attach(database, res, 1, 0, name="a b/ü.png")
    await attach(database, res, 1, 1, b"text " * 1_000_000, "A_B_Ü.PNG")
    await add(
        database,
        "attachments",
        email_id=1,
        position=2,
        source_url="x",
        status="failed",
        error_code="attachment_gone",
        error="It is gone.",
    )
    comment = await add_message(database, res, 1, "Grüße", html=f'<img src="{url}">', original=ORIGINAL)

    files = await archive_of(client)
    manifest = json.loads(files["manifest.json"])

    assert list(files) == [
        *("message.txt", "message.html", "original.eml", "record.json"),
        *("files/a b_ü.png", "files/A_B_Ü.PNG", "manifest.json"),
    ]
    assert files["message.txt"] == "Grüße".encode()
    assert b'src="files/a%20b_%C3%BC.png"' in files["message.html"]
    assert files["original.eml"] == ORIGINAL
    assert json.loads(files["record.json"]) == comment
    assert files["files/a b_ü.png"] == PNG
    assert {each["name"]: (each["size"], each["sha256"]) for each in manifest["files"]} == {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
        if name != "manifest.json"
    }
    assert manifest["missing"] == [
        {
            "position": 2,
            "file_name": None,
            "status": "failed",
            "code": "attachment_gone",
            "reason": "It is gone.",
        }
    ]
    assert manifest["message"]["from"] == {"name": "Ann", "address": "ann@customer.example"}
    assert manifest["email"]["id"] == 1


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        (None, None, "message_not_found"),
        ("not_available", None, "original_not_available"),
        ("not_available", "original_unfit", "original_unfit"),
    ],
)
async def test_archive_says_why_there_is_no_original(
    client: Client,
    database: asyncpg.Connection,
    res: Resources,
    state: str | None,
    reason: str | None,
    code: str,
) -> None:
    await add(database)
    await add_message(database, res, 1)
    await database.execute("UPDATE messages SET original = $1, original_error_code = $2", state, reason)

    [missing] = json.loads((await archive_of(client))["manifest.json"])["missing"]

    assert (missing["name"], missing["code"]) == ("original.eml", code)
    assert missing["reason"].endswith(".")


async def test_archive_of_an_email_without_a_message_has_its_files(
    client: Client, database: asyncpg.Connection, res: Resources
) -> None:
    await add(database)
    await attach(database, res, 1, 0)

    files = await archive_of(client)

    assert list(files) == ["files/logo.png", "manifest.json"]
    assert json.loads(files["manifest.json"])["message"] is None


async def test_archive_with_a_missing_object_is_an_error(
    client: Client, database: asyncpg.Connection, res: Resources, settings: Settings
) -> None:
    await add(database)
    await attach(database, res, 1, 0)
    place = place_of(settings, await database.fetchval("SELECT object_key FROM attachments"))
    await asyncio.to_thread(place.unlink)

    problem = await refused(client, "GET", f"{EMAILS}/1/archive.zip", 500)

    assert problem["code"] == "object_missing"


async def test_archive_with_a_damaged_object_breaks_off(
    client: Client, database: asyncpg.Connection, res: Resources, settings: Settings
) -> None:
    await add(database)
    await add_message(database, res, 1)
    await attach(database, res, 1, 0, b"a" * 5_000_000, "a.bin")
    place = place_of(settings, await database.fetchval("SELECT object_key FROM attachments"))
    await asyncio.to_thread(place.write_bytes, b"a" * 4_999_999 + b"b")
    received = bytearray()

    async def read() -> None:
        async with client.session.get(f"{client.url}{EMAILS}/1/archive.zip", headers=AUTHORIZED) as response:
            async for chunk in response.content.iter_any():
                received.extend(chunk)

    with pytest.raises(ClientError):
        await read()

    assert not zipfile.is_zipfile(io.BytesIO(received))


async def test_from_the_webhook_to_the_archive(client: Client, zendesk: Zendesk, worker: Worker) -> None:
    """What a worker fetched is what the archive has, byte for byte."""
    zendesk.state.gives_originals = True
    logo, invoice = zendesk.add_file("logo.png", PNG), zendesk.add_file("invoice.pdf", PDF)
    comment_id = zendesk.add_email(
        77,
        subject="Grüße",
        text="Please pay.",
        html='<p onclick="x">Please <b>pay</b>.</p><img src="cid:logo.png"><img src="https://evil.example/1">',
        cc=[("Bob", "bob@customer.example")],
        attachments=[invoice],
        inline=[logo],
    )
    receipt = await client.send({"ticket_id": 77, "comment_id": str(comment_id)})

    email = await client.until(receipt["email_id"], "completed")
    files = await archive_of(client, receipt["email_id"])
    response, page = await ask(client, "GET", email["message"]["html_href"])

    assert email["subject"] == email["message"]["subject"] == "Grüße"
    assert email["message"]["cc"] == [{"name": "Bob", "address": "bob@customer.example"}]
    assert (files["files/logo.png"], files["files/invoice.pdf"]) == (PNG, PDF)
    assert files["message.txt"] == b"Please pay."
    assert json.loads(files["record.json"])["id"] == comment_id
    assert b"Subject: " in files["original.eml"]
    assert json.loads(files["manifest.json"])["missing"] == []
    assert b'<p>Please <b>pay</b>.</p><img src="files/logo.png"><img>' in files["message.html"]
    assert response.status == 200
    assert b"<p>Please <b>pay</b>.</p>" in page
    assert page.count(b' src="') == page.count(b' src="data:image/png;base64,') == 1


# ── announcements and merged e-mails


async def test_announcements_are_listed_and_shown_byte_for_byte(
    client: Client, database: asyncpg.Connection
) -> None:
    await add(database)
    body = b'{"ticket_id": "\xff"}'
    number = await announce(database, 1, body, late=True)

    email = await client.email(1)
    page = await client.get(f"{EMAILS}/1/announcements")
    shown = await client.get(f"{EMAILS}/1/announcements/{number}")

    assert email["announcements"] == page["announcements"]
    (announcement,) = page["announcements"]
    assert (announcement["late"], announcement["size"], page["capped"]) == (True, len(body), False)
    assert announcement["href"] == f"{EMAILS}/1/announcements/{number}"
    assert shown["body"] == '{"ticket_id": "\ufffd"}'
    assert shown["headers"][0] == ["X-Secret", "hunter2"]
    await refused(client, "GET", f"{EMAILS}/1/announcements/{number + 1}", 404)
    await refused(client, "GET", f"{EMAILS}/2/announcements", 404)


@pytest.mark.parametrize(
    ("path", "location"),
    [
        (f"{EMAILS}/7", f"{EMAILS}/1"),
        (f"{EMAILS}/7/message.txt?a=b", f"{EMAILS}/1/message.txt?a=b"),
        (f"{EMAILS}/7/attachments/0/content", f"{EMAILS}/1/attachments/0/content"),
        (f"{EMAILS}/007/request", f"{EMAILS}/1/request"),
        ("/emails/7", "/emails/1"),
    ],
)
async def test_merged_email_redirects_to_the_one_it_became(
    client: Client, database: asyncpg.Connection, path: str, location: str
) -> None:
    await add(database)
    await add(database, "merged_emails", id=7, email_id=1, idempotency_key="seven")

    async with client.session.get(client.url + path, headers=AUTHORIZED, allow_redirects=False) as response:
        assert (response.status, response.headers.get("Location")) == (308, location)
    await refused(client, "GET", f"{EMAILS}/8", 404)
    await refused(client, "GET", f"{EMAILS}/1/attachments/0/content", 404)
    await refused(client, "GET", f"{EMAILS}/7", 401, headers={})


async def test_retry_of_a_merged_email_is_redirected_with_its_method(
    client: Client, database: asyncpg.Connection
) -> None:
    await add(database, processing_status="completed")
    await add(database, "merged_emails", id=7, email_id=1, idempotency_key="seven")

    answer = await client.post(f"{EMAILS}/7/retry")

    assert answer["email_id"] == 1


async def test_paths_have_the_prefix_of_the_service(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, res: Resources
) -> None:
    await add(database)
    await add_message(database, res, 1, html="<p>x")
    await add(database, "merged_emails", id=7, email_id=1, idempotency_key="seven")
    below = settings.model_copy(update={"public_url": "https://acme.example/holdfast"})

    async with serving(below, zendesk) as server:
        message = (await server.email(1))["message"]
        async with server.session.get(
            f"{server.url}{EMAILS}/7", headers=AUTHORIZED, allow_redirects=False
        ) as response:
            location = response.headers["Location"]

    assert message["text_href"] == f"/holdfast{EMAILS}/1/message.txt"
    assert location == f"/holdfast{EMAILS}/1"
