"""Requests of any size, type, encoding and framing: each gets an answer, and accepted ones are saved."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.sender import sign_headers
from service.local.zendesk.stand_in import Zendesk
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID
from tests.conftest import Client, Server, eventually
from tests.support.connections import connect, metric, raw, status_of
from tests.support.rows import bodies, count_saved
from tests.support.webhooks import NO_HANG, SECRET, TICKET, head, no_traceback, post

__all__ = ["no_traceback"]  # a fixture for each test here


async def test_body_at_the_limit_is_accepted_and_one_byte_more_is_refused(
    client: Server, settings: Settings, database: asyncpg.Connection
) -> None:
    body = b'{"ticket_id": 1, "subject": "%s"}' % (b"x" * (settings.max_webhook_bytes - 31))
    assert len(body) == settings.max_webhook_bytes

    answers = [await raw(client, head(sent, announce=len(sent)), body=sent) for sent in (body, body + b" ")]

    assert [status_of(answer) for answer in answers] == [200, 413]
    assert b'"code": "too_large"' in answers[1]
    assert await bodies(database) == [body]


async def test_body_without_content_length_is_limited_while_it_arrives(
    client: Server, settings: Settings, database: asyncpg.Connection
) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 4096):
            yield b"x" * 4096

    large = settings.max_webhook_bytes + 4096
    headers = sign_headers(b"x" * large, SECRET)
    async with client.session.post(client.webhook, data=chunks(large), headers=headers) as response:
        status = response.status

    headers = sign_headers(b"x" * 8192, SECRET)
    async with client.session.post(client.webhook, data=chunks(8192), headers=headers) as response:
        assert (await response.json())["status"] == "quarantined"
    assert status == 413
    assert await bodies(database, "quarantined_webhooks") == [b"x" * 8192]


@pytest.mark.parametrize("framing", [b"Content-Length: 100000000000", b"Transfer-Encoding: chunked"])
async def test_413_comes_while_the_client_is_still_sending(
    framing: bytes, client: Server, database: asyncpg.Connection
) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    async def send(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(head(b"", framing))
            while True:
                writer.write(chunk)
                await writer.drain()

    async with connect(client) as (reader, writer), asyncio.timeout(NO_HANG):
        sending = asyncio.create_task(send(writer))
        status_line = await reader.readline()
        sending.cancel()
        await asyncio.wait({sending})

    assert b" 413 " in status_line
    assert await count_saved(database) == 0


async def test_413_comes_at_once_for_a_content_length_over_the_limit(client: Server) -> None:
    async with connect(client) as (reader, writer), asyncio.timeout(NO_HANG):
        writer.write(head(b"", announce=2_000_000))
        status_line = await reader.readline()

    assert b" 413 " in status_line


MEDIA_TYPES = [
    *("application/json", "APPLICATION/JSON;charset=UTF-8", "application/json; charset=\xff;;="),
    *("application/vnd.api+json", "application/cloudevents+json; charset=utf-8", "text/json", "text/plain"),
    *("application/octet-stream", "application/x-www-form-urlencoded", "application/xml", "json", "", None),
]


@pytest.mark.parametrize("content_type", MEDIA_TYPES)
async def test_json_is_parsed_under_any_content_type(
    content_type: str | None, client: Client, database: asyncpg.Connection
) -> None:
    request = head(TICKET, announce=len(TICKET)).replace(b"application/json; charset=utf-8", b"@")
    line = b"" if content_type is None else b"Content-Type: %s\r\n" % content_type.encode("latin-1")

    answer = await raw(client, request.replace(b"Content-Type: @\r\n", line), body=TICKET)

    assert status_of(answer) == 200
    assert b'"accepted"' in answer
    assert await bodies(database) == [TICKET]


NO_JSON = {
    "a form": (b"ticket_id=1029&subject=Rechnung&attachments=x", "application/x-www-form-urlencoded"),
    "a form with a payload": (b"payload=%7B%22ticket_id%22%3A1%7D", "application/x-www-form-urlencoded"),
    "XML": (b"<?xml version='1.0'?><ticket><id>1</id></ticket>", "application/xml"),
    "XML as text": (b"<ticket><id>1</id></ticket>", "text/xml; charset=utf-8"),
    "a multipart form": (b"--x\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x"),
    "a picture": (bytes(range(256)), "image/png"),
}


@pytest.mark.parametrize("name", NO_JSON)
async def test_signed_request_with_any_body_is_saved(
    name: str, client: Client, database: asyncpg.Connection
) -> None:
    """A 4xx would lose the webhook: Zendesk does not repeat it."""
    body, content_type = NO_JSON[name]

    answer = await post(client, body, Content_Type=content_type)

    kept = await bodies(database) + await bodies(database, "quarantined_webhooks")
    assert answer.status == 200
    assert answer.json()["status"] in {"accepted", "quarantined"}
    assert kept == [body]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense", "gzip, gzip"])
async def test_signed_compressed_body_is_saved_unchanged(
    encoding: str, client: Server, database: asyncpg.Connection
) -> None:
    body = gzip.compress(TICKET)
    request = head(body, announce=len(body), **{"Content-Encoding": encoding})

    answer = await raw(client, request, body=body)

    assert status_of(answer) == 200
    assert await bodies(database, "quarantined_webhooks") == [body]
    assert await database.fetchval("SELECT error_code FROM quarantined_webhooks") == "compressed"


@pytest.mark.parametrize("encoding", ["identity", "", "utf-8", "gzip", "aws-chunked"])
async def test_json_body_is_parsed_under_any_content_encoding(
    encoding: str, client: Server, database: asyncpg.Connection
) -> None:
    request = head(TICKET, announce=len(TICKET), **{"Content-Encoding": encoding})

    assert status_of(await raw(client, request, body=TICKET)) == 200
    assert await bodies(database) == [TICKET]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_other_methods_get_405_with_the_allowed_one(method: str, client: Client) -> None:
    async with client.session.request(method, client.webhook) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert response.content_type == "application/problem+json"


async def test_stalled_body_times_out_and_delays_no_other_webhook(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(NO_HANG):
        lines = [await stack.enter_async_context(connect(client)) for _ in range(50)]
        for _, writer in lines:
            writer.write(head(TICKET, announce=len(TICKET)) + TICKET[:1])
        receipts = await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(20)))
        answers = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in lines))

    assert {receipt["status"] for receipt in receipts} == {"accepted"}
    assert {status_of(answer) for answer in answers} == {503}, "Zendesk repeats after a 503, not after a 408"
    assert all(b"\r\nRetry-After: 10\r\n" in answer for answer in answers)
    assert await count_saved(database) == 20


@pytest.mark.parametrize("goes", ["close", "abort"])
async def test_client_that_disconnects_within_its_body_saves_nothing(
    goes: str, client: Server, database: asyncpg.Connection
) -> None:
    counted = 'holdfast_webhooks_total{outcome="body_incomplete"}'
    before = await metric(client, counted)

    async def noticed() -> bool:
        return await metric(client, counted) == before + 1

    async with connect(client) as (_, writer):
        writer.write(head(TICKET, announce=len(TICKET)) + TICKET[:5])
        await writer.drain()
        (writer.close if goes == "close" else writer.transport.abort)()
        assert await eventually(noticed)

    assert await count_saved(database) == 0


async def test_webhook_is_saved_though_the_client_does_not_wait_for_the_answer(
    client: Server, database: asyncpg.Connection
) -> None:
    async with connect(client) as (_, writer):
        writer.write(head(TICKET, announce=len(TICKET)) + TICKET)
        await writer.drain()
        writer.close()

        assert await eventually(lambda: bodies(database)) == [TICKET]


BROKEN_FRAMING = {
    "a chunk without a size": (b"Transfer-Encoding: chunked", b"xyz\r\n"),
    "a chunk that is longer than it says": (b"Transfer-Encoding: chunked", b"2\r\nabcdefgh\r\n0\r\n\r\n"),
    "a negative length": (b"Content-Length: -1", b""),
    "two lengths": (b"Content-Length: 1\r\nContent-Length: 2", b"ab"),
    "a length and chunks": (b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "a header of 100 kB": (b"Content-Length: 0\r\nX-Long: " + b"x" * 100_000, b""),
}


@pytest.mark.parametrize("name", BROKEN_FRAMING)
async def test_invalid_http_gets_400_and_saves_nothing(
    name: str, client: Server, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    framing, body = BROKEN_FRAMING[name]

    answer = await raw(client, head(b"", framing), body=body)

    assert status_of(answer) in (400, 503)
    assert await count_saved(database) == 0
    caplog.clear()  # aiohttp's parser logs a traceback


# Unusual and hostile content

TEXT = "ß\u20ac\U0001f4ce"
EMAILS: dict[str, bytes] = {
    "escaped NULs": rb'{"ticket_id": "1\u0000", "subject": "a\u0000b", "attachments": [{"url": "\u0000"}]}',
    "raw NULs": b'{"ticket_id": 1, "subject": "a\0b\r\n\tc", "from_email": "\0"}',
    "lone surrogates": rb'{"ticket_id": 1, "subject": "\ud800x\udfff", "attachments": ["\udc80", {"\ud800": 1}]}',
    "a webhook_id of NULs and surrogates": rb'{"ticket_id": 1, "webhook_id": "\u0000\ud800"}',
    "a webhook_id of 900 kB": b'{"ticket_id": 1, "webhook_id": "' + b"w" * 900_000 + b'"}',
    "a number of 26 digits": b'{"ticket_id": 12345678901234567890123456, "account_id": 98765432109876543210987654}',
    "integers of 4,000 digits": b'{"ticket_id": 1, "subject": %(n)s, "attachments": [{"url": "u", "size": %(n)s}]}'
    % {b"n": b"9" * 4000},
    "floats": b'{"ticket_id": 1e2, "subject": 1.5e300, "attachments": [{"url": "u", "size": 1e3}]}',
    "1e400": b'{"ticket_id": 1, "subject": 1e400, "attachments": [{"url": "u", "size": -1e400, "x": 1e999}]}',
    "a BOM": b"\xef\xbb\xbf" + json.dumps({"ticket_id": 1, "subject": TEXT}, ensure_ascii=False).encode(),
    "UTF-16": json.dumps({"ticket_id": 1, "subject": TEXT}, ensure_ascii=False).encode("utf-16"),
    "UTF-32": json.dumps({"ticket_id": 1, "subject": TEXT}, ensure_ascii=False).encode("utf-32-be"),
    "latin-1": '{"ticket_id": 1, "subject": "Größe £"}'.encode("latin-1"),
    "half a UTF-8 character": b'{"ticket_id": 1, "subject": "\xe2\x82"}',
    "CESU-8": b'{"ticket_id": 1, "subject": "\xed\xa0\xbd\xed\xb3\x8e"}',
    "duplicate keys": b'{"ticket_id": 1, "ticket_id": 1, "subject": "b", "subject": "b"}',
    "100,000 keys": b'{"ticket_id":1,' + b",".join(b'"%x":0' % n for n in range(100_000)) + b"}",
    "100,000 lists": b'{"ticket_id": 1, "attachments": [' + b"[]," * 100_000 + b"[]]}",
    "90 lists deep": b'{"ticket_id": 1, "attachments": ' + b"[" * 90 + b"]" * 90 + b"}",
    "a subject of 900 kB": b'{"ticket_id": 1, "subject": "' + b"\xe2\x82\xac" * 300_000 + b'"}',
    "a sender of 900 kB": b'{"ticket_id": 1, "from_email": "' + b"x" * 900_000 + b'"}',
    "a date of 900 kB": b'{"ticket_id": 1, "received_at": "' + b"1 " * 450_000 + b'"}',
    "a size of 10**30": b'{"ticket_id": 1, "attachments": [{"url": "https://a/", "size": 1%s}]}'
    % (b"0" * 30),
    "a size of 2**63": b'{"ticket_id": 1, "attachments": [{"url": "https://a/", "size": 9223372036854775808}]}',
    "a size below zero": b'{"ticket_id": 1, "attachments": [{"url": "https://a/", "size": -1}]}',
    "5,000 attachments": json.dumps(
        {
            "ticket_id": 1,
            "attachments": [{"url": f"https://a/{n}", "filename": f"{n}.pdf"} for n in range(5000)],
        }
    ).encode(),
    "attachments of all kinds": b'{"ticket_id": 1, "attachments": [null, true, 1, 1.5, "", "a", [], {}, {"url": {}}]}',
    "an address of 900 kB": b'{"ticket_id": 1, "attachments": [{"url": "https://a/'
    + b"x" * 900_000
    + b'"}]}',
    "types that are not": b'{"ticket_id": 1, "subject": {}, "from_email": [1], "from_name": true, "received_at": []}',
}
DATES = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-12:00",
    "9999-12-31T23:59:59.9999999",
    "1 Jan 0001 00:00 +0000",
    "31 Dec 9999 23:59:59 -1200",
    "Fri, 31 Feb 2026 25:61:61 +9999",
    "2026-02-31T00:00:00Z",
    "0000-00-00T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "253402300800",
    "-1",
    "infinity",
    "1e400",
    "\u0000",
    "\u0662\u0660\u0662\u0666-01-01T00:00:00Z",
]
EMAILS |= {f"dated {date!a}": json.dumps({"ticket_id": 1, "received_at": date}).encode() for date in DATES}


@pytest.mark.parametrize("name", EMAILS)
async def test_email_with_any_content_is_accepted_saved_and_shown(
    name: str, client: Server, database: asyncpg.Connection
) -> None:
    body = EMAILS[name]

    answer = await post(client, body)

    assert (answer.status, answer.json()) == (200, {"status": "accepted", "email_id": 1})
    assert await bodies(database) == [body]
    assert await database.fetchval("SELECT count(*) FROM quarantined_webhooks") == 0
    assert (await client.email(1))["id"] == 1
    assert [email["id"] for email in (await client.get("/api/v1/emails"))["emails"]] == [1]
    assert (await post(client, body, **{INVOCATION_ID: "again"})).status == 200


@pytest.mark.parametrize(
    ("body", "subject"),
    [
        (EMAILS["a BOM"], TEXT),
        (EMAILS["UTF-16"], TEXT),
        (EMAILS["UTF-32"], TEXT),
        (EMAILS["latin-1"], "Größe £"),
        (EMAILS["escaped NULs"], "a\ufffdb"),
        (EMAILS["lone surrogates"], "\ufffdx\ufffd"),
        (EMAILS["duplicate keys"], "b"),
    ],
)
async def test_text_is_decoded_correctly(body: bytes, subject: str, client: Client) -> None:
    await post(client, body)

    assert (await client.email(1))["subject"] == subject


async def test_number_of_26_digits_is_saved_exactly(client: Server) -> None:
    await post(client, EMAILS["a number of 26 digits"])

    assert (await client.email(1))["zendesk_ticket_id"] == "12345678901234567890123456"


@pytest.mark.parametrize("body", [TICKET, b"?"])
@pytest.mark.parametrize("value", [b"\xff\xfe \xe2\x82", b"\xc3\xa9", b"", b" ", b"x" * 1000])
async def test_header_values_with_any_bytes_are_accepted(
    value: bytes, body: bytes, client: Server, database: asyncpg.Connection
) -> None:
    names = [INVOCATION_ID, WEBHOOK_ID, ACCOUNT_ID, "X-Any", "User-Agent", "Authorization"]
    request = head(body, announce=len(body), **dict.fromkeys(names, "@"))

    answers = [await raw(client, request.replace(b": @", b": " + value), body=body) for _ in range(2)]

    assert [status_of(answer) for answer in answers] == [200, 200], answers
    assert await count_saved(database) == 1
