"""Every webhook gets an answer from the table, and what was answered 2xx is in Postgres byte for byte."""

import asyncio
import contextlib
import gzip
import json
import logging
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from structlog.testing import capture_logs

from service.config.settings import Settings
from service.local.zendesk.sender import Answer, sign_headers
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, SIGNATURE, TIMESTAMP, WEBHOOK_ID, sign
from tests.conftest import ROOT, Client, Server, eventually, serving, working
from tests.support.connections import connect, is_busy, is_down, is_idle, is_up, metric, raw, status_of
from tests.support.proxy import before_postgres, before_redis
from tests.support.rows import bodies, count_saved, is_waiting_for_a_lock, locked
from tests.support.webhooks import EVENT, IGNORED, MERGED, NO_HANG, SECRET, TICKET, post, signed


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is sent, no log line is an error or has a traceback."""
    with capture_logs() as events:
        yield
    assert [event for event in events if event["log_level"] == "error" or event.get("exc_info")] == []
    records = caplog.get_records("call")
    assert [r.getMessage() for r in records if r.exc_info or r.levelno >= logging.ERROR] == []


async def post_again(client: Server, body: bytes | dict[str, Any]) -> Answer:
    """Send, and repeat what got a 503 as Zendesk does, only sooner."""

    async def answered() -> Answer | None:
        answer = await post(client, body)
        return answer if answer.status != 503 else None

    return await eventually(answered)


def problem(answer: Answer) -> dict[str, Any]:
    """Check that an error is one that a machine can read, and return it."""
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status
    return body


def head(body: bytes, *more: bytes, announce: int | None = None, **headers: str) -> bytes:
    """Return the head of a signed request that closes its connection."""
    named = {**sign_headers(body, SECRET), "Connection": "close", "Host": "holdfast", **headers}
    if announce is not None:
        named["Content-Length"] = str(announce)
    lines = [f"{name}: {value}".encode() for name, value in named.items()]
    return b"\r\n".join([b"POST /webhooks/zendesk HTTP/1.1", *lines, *more, b"", b""])


# New, seen before, ignored


async def test_a_new_webhook_is_accepted_and_on_record_byte_for_byte(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    body = json.dumps(zendesk.payload(), indent=3).encode() + b" \r\n"

    answer = await post(client, body)

    assert answer.status == 200
    assert answer.json() == {"status": "accepted", "email_id": 1}
    assert await bodies(database) == [body]


async def test_a_webhook_seen_before_is_a_duplicate_of_the_same_email(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    payload = zendesk.payload()
    first = await client.send(payload)

    again = await client.send(payload)

    assert again == {"status": "duplicate", "email_id": first["email_id"]}
    assert await count_saved(database) == 1


async def test_without_a_webhook_id_the_invocation_tells_what_is_a_repeat(
    client: Server, database: asyncpg.Connection
) -> None:
    statuses = [
        (await post(client, TICKET, **{INVOCATION_ID: invocation})).json()["status"]
        for invocation in ("one", "two", "one")
    ]

    assert statuses == ["accepted", "accepted", "duplicate"]
    assert await count_saved(database) == 2


async def test_200_invocations_at_once_with_one_webhook_id_are_one_email(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    payload = zendesk.payload()

    receipts = await asyncio.gather(*(client.send(payload) for _ in range(200)))

    assert sorted(receipt["status"] for receipt in receipts) == ["accepted"] + ["duplicate"] * 199
    assert {receipt["email_id"] for receipt in receipts} == {receipts[0]["email_id"]}
    assert await count_saved(database) == 1


async def test_200_different_emails_at_once_are_200_emails(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    receipts = await asyncio.gather(*(client.send(zendesk.payload(ticket_id=n)) for n in range(1, 201)))

    assert {receipt["status"] for receipt in receipts} == {"accepted"}
    assert await count_saved(database) == 200


async def test_two_different_emails_with_one_webhook_id_are_both_kept(
    client: Server, database: asyncpg.Connection
) -> None:
    first, second, third = (
        json.dumps({"ticket_id": 1, "webhook_id": "one", "subject": subject}).encode()
        for subject in ("first", "second", "third")
    )
    accepted = (await post(client, first)).json()

    answers = [(await post(client, body)).json() for body in (second, second, third)]

    assert answers == [{"status": "duplicate", "email_id": accepted["email_id"]}] * 3
    assert await bodies(database) == [first]
    assert await bodies(database, "quarantined_webhooks") == [second, third]
    codes = await database.fetch("SELECT DISTINCT error_code FROM quarantined_webhooks")
    assert [row["error_code"] for row in codes] == ["key_reused"]


async def test_an_event_that_we_do_not_use_is_ignored_counted_by_its_type_and_kept(
    client: Server, database: asyncpg.Connection
) -> None:
    kind = "zen:event-type:ticket.priority_changed"
    sample = f'holdfast_ignored_events_total{{type="{kind}"}}'
    before = await metric(client, sample)

    body = json.dumps(EVENT | {"type": kind}, indent=3).encode()

    answers = [await post(client, body, **{INVOCATION_ID: "one"}) for _ in range(2)]

    row = await database.fetchrow("SELECT * FROM ignored_webhooks")
    assert [answer.json() for answer in answers] == [{"status": "ignored"}] * 2
    assert await metric(client, sample) == before + 2
    assert await bodies(database, "ignored_webhooks") == [body]
    assert (row["event_type"], row["invocation_id"], row["late"]) == (kind, "one", False)
    assert await count_saved(database) == 1


async def test_a_burst_of_events_that_we_do_not_use_is_kept_as_a_whole(
    client: Server, database: asyncpg.Connection
) -> None:
    sent = [EVENT | {"type": MERGED, "time": str(number % 100)} for number in range(200)]

    answers = await asyncio.gather(*(post(client, event) for event in sent))

    assert {answer.status for answer in answers} == {200}
    kept = await bodies(database, "ignored_webhooks")
    assert sorted(kept) == sorted({json.dumps(event).encode() for event in sent})


@pytest.mark.parametrize("kind", ["", '\n"}\\', "\0\ud800", "é" * 5000, "ticket.created"])
async def test_an_event_of_any_type_is_answered_and_the_metrics_stay_readable(
    kind: str, client: Server, database: asyncpg.Connection
) -> None:
    answer = await post(client, EVENT | {"type": f"zen:event-type:{kind}"})

    assert answer.json()["status"] == ("accepted" if kind == "ticket.created" else "ignored")
    async with client.session.get(f"{client.url}/metrics") as response:
        assert list(text_string_to_metric_families(await response.text()))


# Quarantined


UNREADABLE = {
    "empty": (b"", "not_json"),
    "not JSON": (b"ticket_id=1", "not_json"),
    "broken JSON": (b'{"ticket_id": 1, "organizationId": ,}', "not_json"),
    "NaN": (b'{"ticket_id": NaN}', "not_json"),
    "one byte": (b"\xff", "not_json"),
    "only a BOM": (b"\xef\xbb\xbf", "not_json"),
    "only NULs": (b"\0" * 64, "not_json"),
    "every byte": (bytes(range(256)), "not_json"),
    "a list": (b"[1]", "wrong_shape"),
    "a number": (b"12345678901234567890123456", "wrong_shape"),
    "null": (b"null", "wrong_shape"),
    "10,000 lists deep": (b"[" * 10_000 + b"]" * 10_000, "wrong_shape"),
    "a million lists deep": (b"[" * 1_000_000, "wrong_shape"),
    "10,000 objects deep": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "wrong_shape"),
    "an e-mail 10,000 deep": (b'{"ticket_id":1,"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "wrong_shape"),
    "attachments 10,000 deep": (
        json.dumps({"ticket_id": 1, "attachments": "[" * 10_000 + "]" * 10_000}).encode(),
        "wrong_shape",
    ),
    "attachments of a number": (b'{"ticket_id": 1, "attachments": 7}', "wrong_shape"),
    "an integer of 100,000 digits": (b'{"ticket_id": 1, "x": ' + b"9" * 100_000 + b"}", "not_json"),
    "a long ticket": (b'{"ticket_id": "' + b"1" * 900_000 + b'"}', "wrong_shape"),
    "two tickets under one key": (b'{"ticket_id": 1, "ticket_id": 2}', "duplicate_key"),
    "no ticket": (b'{"subject": "Invoice"}', "no_ticket"),
    "an empty ticket": (b'{"ticket_id": " "}', "no_ticket"),
    "an empty object": (b"{}", "no_ticket"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_signed_body_that_we_cannot_read_is_kept_as_it_is(
    name: str, client: Server, database: asyncpg.Connection
) -> None:
    body, code = UNREADABLE[name]

    answer = await post(client, body)

    assert answer.status == 200
    assert answer.json() == {"status": "quarantined", "quarantine_id": 1}
    assert await bodies(database, "quarantined_webhooks") == [body]
    assert await database.fetchval("SELECT error_code FROM quarantined_webhooks") == code
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0


async def test_the_same_unreadable_invocation_is_quarantined_once(
    client: Server, database: asyncpg.Connection
) -> None:
    answers = await asyncio.gather(*(post(client, b"?", **{INVOCATION_ID: "one"}) for _ in range(50)))

    assert {answer.body for answer in answers} == {answers[0].body}
    assert answers[0].json()["status"] == "quarantined"
    assert await count_saved(database) == 1


async def test_unreadable_invocations_that_differ_are_all_kept(
    client: Server, database: asyncpg.Connection
) -> None:
    await asyncio.gather(*(post(client, b"?") for _ in range(20)))

    assert await bodies(database, "quarantined_webhooks") == [b"?"] * 20


@pytest.mark.parametrize("invocation", ["one", None])
async def test_another_unreadable_body_under_the_same_invocation_is_kept_too(
    invocation: str | None, client: Server, database: asyncpg.Connection
) -> None:
    for body in (b"first", b"second"):
        await post(client, body, **{INVOCATION_ID: invocation})

    assert await bodies(database, "quarantined_webhooks") == [b"first", b"second"]


@pytest.mark.parametrize("body", [b"?", TICKET])
async def test_what_authenticates_a_webhook_is_not_on_record(
    body: bytes, client: Server, database: asyncpg.Connection
) -> None:
    secrets = {"Authorization": "Basic aG9sZA==", "Cookie": "a=hidden", "X_Api_Key": "hidden"}
    await post(client, body, **secrets, X_Other="kept")

    (row,) = await database.fetch(
        "SELECT raw_headers::text FROM incoming_emails"
        " UNION ALL SELECT raw_headers::text FROM quarantined_webhooks"
    )
    headers = dict(json.loads(row["raw_headers"]))
    assert headers["Authorization"] == headers["Cookie"] == headers["X-Api-Key"] == "[redacted]"
    assert headers["X-Other"] == "kept"
    assert "hidden" not in row["raw_headers"]


# Signatures


def wrong_order() -> dict[str, str | None]:
    timestamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {TIMESTAMP: timestamp, SIGNATURE: sign(SECRET, TICKET.decode(), timestamp.encode())}


def respelt() -> dict[str, str | None]:
    """Change bits of the signature that belong to no byte of it."""
    headers = signed(TICKET)
    signature = headers[SIGNATURE] or ""
    return {**headers, SIGNATURE: f"{signature[:-2]}{chr(ord(signature[-2]) + 1)}="}


def moved(length: int) -> dict[str, str | None]:
    """Move the beginning of what was signed as a body into the timestamp; what is left of it is TICKET."""
    timestamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    piece = '{"a": "bcdefgh'[:length]
    return {TIMESTAMP: timestamp + piece, SIGNATURE: sign(SECRET, timestamp, piece.encode() + TICKET)}


REFUSED: dict[str, tuple[Mapping[str, str | None], str]] = {
    "no signature": ({SIGNATURE: None}, "signature_missing"),
    "an empty signature": ({SIGNATURE: ""}, "signature_missing"),
    "no timestamp": ({TIMESTAMP: None}, "timestamp_missing"),
    "neither": ({SIGNATURE: None, TIMESTAMP: None}, "signature_missing"),
    "another secret": (signed(TICKET, secret="another"), "signature_mismatch"),
    "an empty secret": (signed(TICKET, secret=""), "signature_mismatch"),
    "body before timestamp": (wrong_order(), "signature_mismatch"),
    "another body": (signed(b'{"ticket_id": 2}'), "signature_mismatch"),
    "the body written anew": (signed(b'{"ticket_id":1}'), "signature_mismatch"),
    "another timestamp": ({TIMESTAMP: "2026-01-01T00:00:00Z"}, "signature_mismatch"),
    "no base64": ({SIGNATURE: "ü" * 44}, "signature_mismatch"),
    "another spelling of the base64": (respelt(), "signature_mismatch"),
    "a timestamp with a piece of the body": (moved(1), "timestamp_malformed"),
    "a timestamp with most of the body": (moved(10), "timestamp_malformed"),
    "a long timestamp": (signed(TICKET, timestamp="9" * 41), "timestamp_malformed"),
    "a timestamp of other bytes": (signed(TICKET, timestamp="opaque \u20ac"), "timestamp_malformed"),
    "a long signature": ({SIGNATURE: "A" * 4000}, "signature_mismatch"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_zendesk_did_not_sign_is_refused_with_the_reason_and_leaves_nothing(
    name: str, client: Server, database: asyncpg.Connection
) -> None:
    headers, code = REFUSED[name]
    counted = f'holdfast_webhooks_total{{outcome="{code}"}}'
    before = await metric(client, counted)

    answer = await post(client, TICKET, **headers)

    assert answer.status == 401
    assert problem(answer)["code"] == code
    assert SECRET.encode() not in answer.body
    assert re.search(rb"[A-Za-z0-9+/]{43}=", answer.body) is None, "a signature that would have fitted"
    assert await count_saved(database) == 0
    assert await metric(client, counted) == before + 1


@pytest.mark.parametrize("seconds", [-7200, 7200, -13618, -30 * 86400])
@pytest.mark.parametrize("body", [TICKET, b"?", IGNORED])
async def test_a_good_signature_of_another_time_is_kept_and_marked_as_late(
    seconds: int, body: bytes, client: Server, database: asyncpg.Connection
) -> None:
    """Once, as deduplication lasts for ever: a time window would only lose what was delayed."""
    counted = "holdfast_late_webhooks_total"
    before = await metric(client, counted)
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    headers = signed(body, timestamp=at.isoformat())

    with capture_logs() as logs:
        answers = [await post(client, body, **headers) for _ in range(2)]

    told = [line for line in logs if line["event"] == "webhook_received"]
    assert [answer.status for answer in answers] == [200, 200]
    assert [line["late"] for line in told] == [True, True]
    assert await metric(client, counted) == before + 2
    assert await late(database) == [True]


async def late(database: asyncpg.Connection) -> list[bool]:
    """Return for all that is on record whether it came late."""
    tables = ("incoming_emails", "quarantined_webhooks", "ignored_webhooks")
    rows = await database.fetch(" UNION ALL ".join(f"SELECT late FROM {table}" for table in tables))
    return [row["late"] for row in rows]


@pytest.mark.parametrize("timestamp", [None, "yesterday", "20260428"])
async def test_what_is_in_time_or_of_an_unknown_time_is_not_late(
    timestamp: str | None, client: Server, database: asyncpg.Connection
) -> None:
    await post(client, TICKET, **signed(TICKET, timestamp=timestamp))

    assert await late(database) == [False]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("body", [TICKET, b"?", IGNORED])
async def test_a_signature_is_one_invocation_whatever_its_id_header_says(
    body: bytes, *, at_once: bool, client: Server, database: asyncpg.Connection
) -> None:
    """Whoever captured a request can repeat it under any other header: those are not signed."""
    headers = signed(body)
    others: list[dict[str, str | None]] = [
        {INVOCATION_ID: None if number == 7 else f"id {number}", WEBHOOK_ID: str(number), ACCOUNT_ID: "1"}
        for number in range(20)
    ]

    sending = [post(client, body, **headers, **other) for other in others]
    answers = await asyncio.gather(*sending) if at_once else [await each for each in sending]

    told = [answer.json() for answer in answers]
    first, *_ = [answer for answer in told if answer["status"] != "duplicate"]
    assert {answer.status for answer in answers} == {200}
    assert all(answer in (first, {**first, "status": "duplicate"}) for answer in told)
    assert await count_saved(database) == 1


async def test_a_signature_is_one_invocation_in_all_processes_that_take_webhooks(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with serving(settings, zendesk) as one, serving(settings, zendesk) as other:
        for _ in range(10):
            headers = signed(TICKET, timestamp=datetime.now(UTC).isoformat())
            sent = [
                post(client, TICKET, **headers, **{INVOCATION_ID: str(uuid.uuid4())})
                for client in (one, other)
            ]
            answers = [answer.json() for answer in await asyncio.gather(*sent)]

            assert sorted(answer["status"] for answer in answers) == ["accepted", "duplicate"]
            assert len({answer["email_id"] for answer in answers}) == 1
    assert await count_saved(database) == 10


async def test_the_same_body_signed_at_another_moment_is_another_invocation(
    client: Server, database: asyncpg.Connection
) -> None:
    for timestamp in ("2026-11-29T06:00:00Z", "2026-11-29T06:00:01Z"):
        await post(client, TICKET, **signed(TICKET, timestamp=timestamp))

    assert await bodies(database) == [TICKET, TICKET]


@pytest.mark.parametrize("secret", ["first", "second", "third"])
async def test_any_of_several_secrets_will_do(
    secret: str, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    secrets = tuple(SecretStr(secret) for secret in ("first", "second", "third"))
    async with serving(settings.model_copy(update={"zendesk_webhook_secrets": secrets}), zendesk) as client:
        answer = await post(client, TICKET, **signed(TICKET, secret=secret))

    assert answer.status == 200


async def test_without_a_secret_nobody_gets_in(settings: Settings, zendesk: Zendesk, res: Resources) -> None:
    for secrets in ((), (SecretStr(""), SecretStr(" "))):
        async with serving(
            settings.model_copy(update={"zendesk_webhook_secrets": secrets}), zendesk
        ) as client:
            answers = [await post(client, TICKET, **signed(TICKET, secret=secret)) for secret in ("", " ")]

        assert [answer.status for answer in answers] == [401, 401]


# Too large, wrong type, wrong method, too slow, broken


async def test_a_body_of_just_the_limit_is_accepted_and_of_one_byte_more_is_not(
    client: Server, settings: Settings, database: asyncpg.Connection
) -> None:
    body = b'{"ticket_id": 1, "subject": "%s"}' % (b"x" * (settings.max_webhook_bytes - 31))
    assert len(body) == settings.max_webhook_bytes

    answers = [await raw(client, head(sent, announce=len(sent)), body=sent) for sent in (body, body + b" ")]

    assert [status_of(answer) for answer in answers] == [200, 413]
    assert b'"code": "too_large"' in answers[1]
    assert await bodies(database) == [body]


async def test_a_body_without_content_length_is_measured_while_it_is_read(
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
async def test_the_413_comes_while_the_client_goes_on_sending(
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


async def test_the_413_comes_at_once_for_a_length_that_is_announced(client: Server) -> None:
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
async def test_json_is_read_whatever_it_is_said_to_be(
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
async def test_what_is_signed_is_kept_whatever_it_is(
    name: str, client: Client, database: asyncpg.Connection
) -> None:
    """A 4xx would lose it: Zendesk does not repeat those."""
    body, content_type = NO_JSON[name]

    answer = await post(client, body, Content_Type=content_type)

    kept = await bodies(database) + await bodies(database, "quarantined_webhooks")
    assert answer.status == 200
    assert answer.json()["status"] in {"accepted", "quarantined"}
    assert kept == [body]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense", "gzip, gzip"])
async def test_a_compressed_body_that_is_signed_is_kept_as_it_is(
    encoding: str, client: Server, database: asyncpg.Connection
) -> None:
    body = gzip.compress(TICKET)
    request = head(body, announce=len(body), **{"Content-Encoding": encoding})

    answer = await raw(client, request, body=body)

    assert status_of(answer) == 200
    assert await bodies(database, "quarantined_webhooks") == [body]
    assert await database.fetchval("SELECT error_code FROM quarantined_webhooks") == "compressed"


@pytest.mark.parametrize("encoding", ["identity", "", "utf-8", "gzip", "aws-chunked"])
async def test_a_body_that_is_json_is_read_whatever_encoding_is_named(
    encoding: str, client: Server, database: asyncpg.Connection
) -> None:
    request = head(TICKET, announce=len(TICKET), **{"Content-Encoding": encoding})

    assert status_of(await raw(client, request, body=TICKET)) == 200
    assert await bodies(database) == [TICKET]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_another_method_is_refused_and_told_which_is_allowed(method: str, client: Client) -> None:
    async with client.session.request(method, client.webhook) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert response.content_type == "application/problem+json"


async def test_a_body_that_stops_after_one_byte_is_given_up_and_hinders_nobody(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(NO_HANG):
        lines = [await stack.enter_async_context(connect(client)) for _ in range(50)]
        for _, writer in lines:
            writer.write(head(TICKET, announce=len(TICKET)) + TICKET[:1])
        receipts = await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(20)))
        answers = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in lines))

    assert {receipt["status"] for receipt in receipts} == {"accepted"}
    assert {status_of(answer) for answer in answers} == {503}, "Zendesk repeats a 503, and drops a 408"
    assert all(b"\r\nRetry-After: 10\r\n" in answer for answer in answers)
    assert await count_saved(database) == 20


@pytest.mark.parametrize("goes", ["close", "abort"])
async def test_a_client_that_leaves_amid_its_body_leaves_nothing(
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


async def test_a_client_that_does_not_wait_for_its_answer_is_on_record_all_the_same(
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
async def test_broken_http_is_a_bad_request_and_leaves_nothing(
    name: str, client: Server, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    framing, body = BROKEN_FRAMING[name]

    answer = await raw(client, head(b"", framing), body=body)

    assert status_of(answer) in (400, 503)
    assert await count_saved(database) == 0
    caplog.clear()  # aiohttp's parser does log a traceback


# What senders have sent, and worse

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
async def test_whatever_an_email_holds_it_is_accepted_kept_and_shown(
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
async def test_text_is_read_as_it_was_meant(body: bytes, subject: str, client: Client) -> None:
    await post(client, body)

    assert (await client.email(1))["subject"] == subject


async def test_a_number_of_26_digits_keeps_each_of_them(client: Server) -> None:
    await post(client, EMAILS["a number of 26 digits"])

    assert (await client.email(1))["zendesk_ticket_id"] == "12345678901234567890123456"


@pytest.mark.parametrize("body", [TICKET, b"?"])
@pytest.mark.parametrize("value", [b"\xff\xfe \xe2\x82", b"\xc3\xa9", b"", b" ", b"x" * 1000])
async def test_header_values_of_any_bytes_do_no_harm(
    value: bytes, body: bytes, client: Server, database: asyncpg.Connection
) -> None:
    names = [INVOCATION_ID, WEBHOOK_ID, ACCOUNT_ID, "X-Any", "User-Agent", "Authorization"]
    request = head(body, announce=len(body), **dict.fromkeys(names, "@"))

    answers = [await raw(client, request.replace(b": @", b": " + value), body=body) for _ in range(2)]

    assert [status_of(answer) for answer in answers] == [200, 200], answers
    assert await count_saved(database) == 1


# Postgres is away, slow, full, or gone before it answered

BRIEF = 0.5  # seconds that a request has for Postgres


def impatient(settings: Settings, **more: object) -> Settings:
    return settings.model_copy(update={"database_seconds": BRIEF, "database_pool_size": 2, **more})


def check_try_again(answer: Answer) -> None:
    """Check that it is the one answer after which Zendesk sends again."""
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "10"
    assert problem(answer)["code"].startswith("database_")


async def test_while_postgres_is_away_zendesk_is_asked_to_try_again(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        proxy.cut()
        answers = [await post(client, body) for body in (TICKET, b"?", IGNORED, TICKET)]
        await proxy.resume()
        again = await post(client, TICKET)

    for answer in answers:
        check_try_again(answer)
    assert again.status == 200
    assert await count_saved(database) == 1


async def test_what_needs_no_postgres_is_answered_while_it_is_away(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        proxy.cut()
        statuses = [
            (await post(client, TICKET, **{SIGNATURE: None})).status,
            (await post(client, TICKET, **signed(TICKET, secret="another"))).status,
        ]
        async with client.session.get(f"{client.url}/healthz") as response:
            statuses.append(response.status)
        async with client.session.get(f"{client.url}/metrics") as response:
            statuses.append(response.status)

    assert statuses == [401, 401, 200, 200]


@pytest.mark.parametrize("connected", [True, False])
async def test_a_postgres_that_does_not_answer_is_not_waited_for(
    *, connected: bool, settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    brief = impatient(settings)
    async with before_postgres(brief) as (proxy, proxied), serving(proxied, zendesk) as client:
        if connected:
            await post_again(client, b'{"ticket_id": "before"}')
        proxy.freeze()
        answers = await asyncio.gather(*(post(client, b'{"ticket_id": "frozen"}') for _ in range(10)))
        await proxy.resume()
        again = await post_again(client, b'{"ticket_id": "after"}')

    for answer in answers:
        check_try_again(answer)
    assert again.status == 200
    assert (await bodies(database))[-1] == b'{"ticket_id": "after"}'


async def test_a_slow_postgres_is_waited_for_within_the_budget(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        proxy.delay = 0.05

        answer = await post(client, TICKET)

    assert answer.status == 200
    assert await count_saved(database) == 1


async def test_a_restart_of_postgres_between_two_webhooks_is_not_noticed(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(30)))  # fills the pool
        for _ in range(3):
            proxy.cut()
            await proxy.resume()
            await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(30)))

    assert await count_saved(database) == 120


async def test_connections_that_postgres_ended_itself_are_not_noticed(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with serving(settings, zendesk) as client:
        for _ in range(3):
            await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(30)))
            await database.fetch(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
            )
        await client.send(zendesk.payload())

    assert await count_saved(database) == 91


async def test_connections_that_a_failover_left_behind_are_given_up(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """A dead peer says nothing: each dead connection may cost one answer, but none is tried twice."""
    settings = impatient(settings)
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(10)))
        proxy.strand()
        await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(10)))

        assert await eventually(lambda: is_idle(client))
    assert await count_saved(database) == 20


async def backends(connection: asyncpg.Connection) -> int:
    number: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
    )
    return number


async def test_an_exhausted_pool_asks_to_try_again_and_recovers_by_itself(
    settings: Settings, zendesk: Zendesk, res: Resources, database_url: str, database: asyncpg.Connection
) -> None:
    settings = impatient(settings, database_pool_size=1)
    body = json.dumps(zendesk.payload()).encode()
    async with serving(settings, zendesk) as client:
        await post_again(client, TICKET)
        async with locked(database_url):
            answers = await asyncio.gather(*(post(client, body) for _ in range(8)))
        again = await post_again(client, body)

        assert await eventually(lambda: is_idle(client))
    for answer in answers:
        check_try_again(answer)
    assert again.status == 200
    assert await bodies(database) == [TICKET, body]


async def test_requests_that_were_given_up_leave_no_backend_behind(
    settings: Settings, zendesk: Zendesk, res: Resources, database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(impatient(settings), zendesk) as client, locked(database_url):
        answers = await asyncio.gather(*(post(client, zendesk.payload()) for _ in range(50)))

        async def few() -> bool:
            return await backends(database) <= 2

        assert await eventually(few)
        assert await eventually(lambda: is_idle(client))
    assert {answer.status for answer in answers} == {503}


@pytest.mark.parametrize("fault", ["cut", "frozen", "stranded"])
async def test_50_failures_leave_neither_task_nor_connection(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    brief = impatient(settings)
    async with before_postgres(brief) as (proxy, proxied), serving(proxied, zendesk) as client:
        await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(4)))
        await eventually(lambda: is_idle(client))
        before = ours()
        for _ in range(5):
            {"cut": proxy.cut, "frozen": proxy.freeze, "stranded": proxy.strand}[fault]()
            await asyncio.gather(*(post(client, zendesk.payload()) for _ in range(10)))
        await proxy.resume()

        answers = await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(10)))

        async def at_rest() -> bool:
            # What is stranded, nobody can tell Postgres about.
            few = fault == "stranded" or await backends(database) <= 2
            return few and await is_idle(client) and ours() <= before

        assert await eventually(at_rest)
    assert {answer.status for answer in answers} == {200}


def ours() -> int:
    """Count the tasks but for those of the proxy and of connections that the client keeps alive."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum(not name.startswith(("Proxy.", "RequestHandler.")) for name in names)


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.parametrize("kind", ["email", "unreadable"])
async def test_a_commit_of_unknown_outcome_is_neither_lost_nor_doubled(
    *,
    kind: str,
    cuts: bool,
    arrives: bool,
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
) -> None:
    """The connection breaks when the row was sent: a 2xx means that it is there, a repeat leaves one."""
    marker = uuid.uuid4().hex.encode()
    body = b'{"ticket_id": "%s"}' % marker if kind == "email" else marker
    invocation = {INVOCATION_ID: "one"}
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        await post(client, TICKET)
        proxy.trip(marker, arrives=arrives, cuts=cuts)

        first = await post(client, body, **invocation)
        assert proxy.sprung.is_set()
        kept = await count_saved(database) - 1
        await proxy.resume()
        again = await post(client, body, **invocation)

    assert first.status == (503 if cuts else 200)
    assert kept == (0 if cuts and not arrives else 1)
    assert again.status == 200
    assert await count_saved(database) == 2


async def test_breaking_each_chunk_to_postgres_in_turn_loses_and_doubles_nothing(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Whatever Postgres was being told when the line broke."""
    async with before_postgres(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        for number, arrives in ((number, arrives) for number in range(12) for arrives in (True, False)):
            body = json.dumps(zendesk.payload(ticket_id=f"{number}-{arrives}")).encode()
            proxy.drop()
            proxy.trip(b"", arrives=arrives, cuts=False, skip=number)
            first = await post(client, body)
            assert first.status in (200, 503)
            if first.status == 200:
                assert body in await bodies(database)
            await proxy.resume()
            assert (await post_again(client, body)).status == 200

            assert (await bodies(database)).count(body) == 1


async def test_a_server_stops_though_postgres_does_not_answer(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """A request that is under way gets its answer, and no connection is waited for."""
    brief = impatient(settings, database_pool_size=10)
    async with before_postgres(brief) as (proxy, proxied), serving(proxied, zendesk) as client:
        await asyncio.gather(*(post_again(client, zendesk.payload()) for _ in range(50)))  # fills the pool
        await eventually(lambda: is_idle(client))
        proxy.freeze()
        answering = asyncio.create_task(post(client, zendesk.payload()))
        await eventually(lambda: is_busy(client))

        await client.stop()

    check_try_again(await answering)


# Redis is away, slow, or full


@asynccontextmanager
async def broken_redis(fault: str, settings: Settings, res: Resources) -> AsyncIterator[Settings]:
    """Yield settings with a Redis that does not take jobs, until the block ends."""
    if fault == "full":
        await res.redis.config_set("maxmemory", "1")
        try:
            yield settings
        finally:
            await res.redis.config_set("maxmemory", "0")
        return
    async with before_redis(settings) as (proxy, proxied):
        proxy.cut() if fault == "away" else proxy.freeze()
        yield proxied


@pytest.mark.parametrize("fault", ["away", "frozen", "full"])
async def test_without_redis_a_webhook_is_accepted_and_worked_on_once_redis_is_back(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    failed = 'holdfast_dispatches_total{outcome="failed"}'
    async with broken_redis(fault, settings, res) as broken, serving(broken, zendesk) as client:
        before = await metric(client, failed)
        receipts = await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(20)))

        async def gave_up() -> bool:
            return await metric(client, failed) >= before + 20

        assert await eventually(gave_up)
        statuses = await database.fetch("SELECT DISTINCT processing_status FROM incoming_emails")
    assert [row["processing_status"] for row in statuses] == ["received"]
    assert {receipt["status"] for receipt in receipts} == {"accepted"}

    async with serving(settings, zendesk) as client, working(settings):
        for receipt in receipts:
            email = await client.until(receipt["email_id"], "completed", "failed")
            assert email["processing_status"] == "completed"


@pytest.mark.parametrize("fault", ["away", "frozen"])
async def test_the_answer_does_not_wait_for_redis(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Two hundred in a row, while a single attempt to ring takes up to two seconds."""
    async with broken_redis(fault, settings, res) as broken, serving(broken, zendesk) as client:
        async with asyncio.timeout(NO_HANG):
            receipts = [await client.send(zendesk.payload()) for _ in range(200)]

    assert {receipt["status"] for receipt in receipts} == {"accepted"}


@pytest.mark.parametrize("fault", ["cut", "freeze", "drop", "strand"])
async def test_ringing_goes_on_by_itself_when_redis_is_back(
    fault: str, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with before_redis(settings) as (proxy, proxied), serving(proxied, zendesk) as client:
        first = await client.send(zendesk.payload())
        await client.until(first["email_id"], "queued")
        getattr(proxy, fault)()
        await client.send(zendesk.payload())
        await proxy.resume()

        async def queued() -> bool:
            """What is rung on a dead connection may be left to the sweep, which runs in workers."""
            receipt = await client.send(zendesk.payload())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    return bool(await client.until(receipt["email_id"], "queued"))
            return False

        assert await eventually(queued)


# The end of the process


async def test_a_request_in_flight_gets_its_answer_when_the_server_is_told_to_stop(
    settings: Settings, zendesk: Zendesk, res: Resources, database_url: str, database: asyncpg.Connection
) -> None:
    body = json.dumps(zendesk.payload()).encode()
    async with web_process(settings) as process:
        async with ClientSession() as session:
            client = Client(f"http://127.0.0.1:{process.port}", session, zendesk)
            await eventually(lambda: is_up(client))
            async with locked(database_url):
                answering = asyncio.create_task(post(client, body))
                await eventually(lambda: is_waiting_for_a_lock(database))
                process.terminate()
                await eventually(lambda: is_down(client))
                assert not answering.done()
            answer = await answering
        code = await asyncio.to_thread(process.wait, NO_HANG)

    assert answer.json()["status"] == "accepted"
    assert await bodies(database) == [body]
    assert code == 0


class WebProcess(subprocess.Popen[bytes]):
    """`holdfast web` as a Procfile starts it."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        assert settings.database_url
        assert settings.redis_url
        environment = {
            **os.environ,
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "STORAGE_URL": str(settings.storage_url),
            "ZENDESK_WEBHOOK_SECRETS": SECRET,
            "DATABASE_SECONDS": "15",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
        }
        super().__init__([sys.executable, "-m", "service", "web"], cwd=ROOT, env=environment)


@asynccontextmanager
async def web_process(settings: Settings) -> AsyncIterator[WebProcess]:
    process = await asyncio.to_thread(WebProcess, settings)
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
