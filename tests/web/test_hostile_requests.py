"""Requests that Zendesk never sends: each gets an answer, and is saved only after a 200."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from service.local.zendesk.sender import sign_headers
from service.local.zendesk.stand_in import Zendesk
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, SIGNATURE, TIMESTAMP, WEBHOOK_ID
from tests.conftest import Client, Server
from tests.support.connections import metric, raw, status_of
from tests.support.rows import bodies, count_saved
from tests.support.webhooks import NO_HANG, SECRET, TICKET

MIB = 1024**2
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(TICKET), TICKET)


def request(
    body: bytes = TICKET,
    *more: bytes,
    line: bytes = b"POST /webhooks/zendesk HTTP/1.1",
    framed: bytes | None = None,
    without: str = "",
    connection: str = "close",
    **headers: str,
) -> bytes:
    """Write a signed request; `framed` is the encoded body if it needs no Content-Length."""
    named = {**sign_headers(body, SECRET), "Host": "holdfast", "Connection": connection}
    if framed is None:
        named["Content-Length"] = str(len(body))
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}".encode("latin-1") for name, value in named.items() if name != without]
    return b"\r\n".join([line, *lines, *more, b"", body if framed is None else framed])


def changed(whole: bytes, name: str, change: str) -> bytes:
    """Change the header with this name."""
    line = next(line for line in whole.split(b"\r\n") if line.startswith(f"{name}: ".encode())) + b"\r\n"
    other = f"{name}: other\r\n".encode()
    lines = {
        "missing": b"",
        "empty": f"{name}:\r\n".encode(),
        "twice": line + line,
        "another after it": line + other,
        "another before it": other + line,
    }
    return whole.replace(line, lines[change])


NEEDED = {"missing": 401, "empty": 401, "twice": 200, "another after it": 200, "another before it": 401}
OPTIONAL = dict.fromkeys(NEEDED, 200)


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        (SIGNATURE, NEEDED),
        (TIMESTAMP, NEEDED),
        (WEBHOOK_ID, OPTIONAL),
        (INVOCATION_ID, OPTIONAL),
        (ACCOUNT_ID, OPTIONAL),
    ],
)
async def test_missing_or_repeated_zendesk_header_loses_nothing(
    name: str, statuses: dict[str, int], client: Server, database: asyncpg.Connection
) -> None:
    """The first of several counts, and the repeated request is the same e-mail."""
    sent = {change: b'{"ticket_id": "%s"}' % change.encode() for change in statuses}
    answered = {}
    for change, body in sent.items():
        whole = changed(request(body), name, change)
        answered[change] = [status_of(await raw(client, whole)) for _ in range(2)]

    assert answered == {change: [status] * 2 for change, status in statuses.items()}
    assert await bodies(database) == [body for change, body in sent.items() if statuses[change] == 200]


ACCEPTED = {
    "an absolute target": request(line=b"POST http://evil.example/webhooks/zendesk HTTP/1.1"),
    "a target with a user": request(line=b"POST https://u:p@holdfast/webhooks/zendesk HTTP/1.1"),
    "a query": request(line=b"POST /webhooks/zendesk?%ff%00&a=b HTTP/1.1"),
    "an escaped path": request(line=b"POST /%77ebhooks/zendesk HTTP/1.1"),
    "HTTP/1.0": request(line=b"POST /webhooks/zendesk HTTP/1.0"),
    "HTTP/1.0 without a host": request(line=b"POST /webhooks/zendesk HTTP/1.0", without="Host"),
    "empty lines first": b"\r\n\r\n" + request(),
    "an odd host": request(Host="a b:::x/@"),
    "an empty host": request(Host=""),
    "an expectation": request(TICKET, b"Expect: 100-continue"),
    "an upgrade to WebSocket": request(
        TICKET, b"Upgrade: websocket", b"Sec-WebSocket-Key: x", connection="close, Upgrade"
    ),
    "an upgrade to HTTP/2": request(
        TICKET,
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        connection="close, Upgrade, HTTP2-Settings",
    ),
    "100 headers": request(TICKET, *(b"X-%d: y" % number for number in range(100))),
    "a header of 8 kB": request(TICKET, b"X-Long: " + b"x" * 8000),
    "spaces about the length": request(Content_Length=f" {len(TICKET)} "),
    "chunks": request(TICKET, CHUNKED, framed=CHUNKS),
    "chunks in capitals": request(TICKET, CHUNKED.upper(), framed=CHUNKS),
    "chunks of HTTP/1.0": request(TICKET, CHUNKED, line=b"POST /webhooks/zendesk HTTP/1.0", framed=CHUNKS),
    "chunks of one byte": request(
        TICKET, CHUNKED, framed=b"".join(b"1\r\n%c\r\n" % byte for byte in TICKET) + b"0\r\n\r\n"
    ),
    "a chunk extension of a megabyte": request(
        TICKET, CHUNKED, framed=CHUNKS.replace(b"\r\n", b";" + b"x" * MIB + b"\r\n", 1)
    ),
    "a chunk size of 100,000 digits": request(TICKET, CHUNKED, framed=b"0" * 100_000 + CHUNKS),
    "a trailer": request(TICKET, CHUNKED, framed=CHUNKS[:-2] + b"X-Trailer: x\r\n\r\n"),
    "chunks that say to be packed": request(TICKET, b"Transfer-Encoding: gzip, chunked", framed=CHUNKS),
}


async def test_odd_but_valid_http_is_answered_and_saved(client: Server, database: asyncpg.Connection) -> None:
    answers = {name: await raw(client, whole) for name, whole in ACCEPTED.items()}

    statuses = {
        name: re.findall(rb"^HTTP/1\.[01] (\d+) ", answer, re.MULTILINE) for name, answer in answers.items()
    }
    assert statuses == {**{name: [b"200"] for name in ACCEPTED}, "an expectation": [b"100", b"200"]}
    assert await bodies(database) == [TICKET] * len(ACCEPTED)


BAD_REQUESTS = {
    "no host": request(without="Host"),
    "two hosts": request(TICKET, b"Host: other"),
    "two content types": request(TICKET, b"Content-Type: application/json"),
    "two content types that differ": request(TICKET, b"Content-Type: text/plain"),
    "a length that is too short": request(Content_Length="5"),
    "two lengths that agree": request(TICKET, b"Content-Length: %d" % len(TICKET)),
    "a list of lengths": request(Content_Length=f"{len(TICKET)}, {len(TICKET)}"),
    "a length with a sign": request(Content_Length=f"+{len(TICKET)}"),
    "a length in hexadecimal": request(Content_Length=hex(len(TICKET))),
    "a length of two words": request(Content_Length="1_6"),
    "an empty length": request(Content_Length=""),
    "a length of 30 digits": request(Content_Length="9" * 30),
    "a body that nobody announced": request(TICKET, framed=TICKET),
    "an unknown framing": request(TICKET, b"Transfer-Encoding: xchunked", framed=CHUNKS),
    "chunks and then identity": request(TICKET, b"Transfer-Encoding: chunked, identity", framed=CHUNKS),
    "chunks twice": request(TICKET, CHUNKED, CHUNKED, framed=CHUNKS),
    "a length and chunks": request(TICKET, CHUNKED) + CHUNKS,
    "a tab before the framing": request(TICKET, b"Transfer-Encoding: \x0bchunked", framed=CHUNKS),
    "a space before the colon": request(TICKET, b"Transfer-Encoding : chunked", framed=CHUNKS),
    "a chunk size that is too large": request(TICKET, CHUNKED, framed=b"f" * 100 + b"\r\n"),
    "a chunk size below zero": request(TICKET, CHUNKED, framed=b"-1\r\n"),
    "10,000 headers": request(TICKET, *(b"X-%d: y" % number for number in range(10_000))),
    "a target of 100 kB": request(line=b"POST /webhooks/zendesk?" + b"x" * 100_000 + b" HTTP/1.1"),
    "a line of 100 kB": b"X" * 100_000,
    "a target with a NUL": request(line=b"POST /webhooks/zendesk\0 HTTP/1.1"),
    "a target of other bytes": request(line=b"POST /\xff\xfe HTTP/1.1"),
    "a target that is no path": request(line=b"POST webhooks/zendesk HTTP/1.1"),
    "a target of no host": request(line=b"POST http://[::1/webhooks/zendesk HTTP/1.1"),
    "a target with a wrong port": request(line=b"POST http://a:99999/webhooks/zendesk HTTP/1.1"),
    "a star": request(line=b"POST * HTTP/1.1"),
    "an unknown method": request(line=b"FOO /webhooks/zendesk HTTP/1.1"),
    "a method in small letters": request(line=b"post /webhooks/zendesk HTTP/1.1"),
    "an unknown version": request(line=b"POST /webhooks/zendesk HTTP/1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "lines that end with LF": request().replace(b"\r\n", b"\n"),
    "lines that end with CR": request().replace(b"\r\n", b"\r"),
    "a folded header": request(TICKET, b"X-A: b\r\n c"),
    "a NUL in a header": request(TICKET, b"X-A: a\0b"),
    "a CR in a header": request(TICKET, b"X-A: a\rb"),
    "a header without a colon": request(TICKET, b"X-A"),
    "a header without a name": request(TICKET, b": b"),
    "a name of other bytes": request(TICKET, b"X-\xff: b"),
}


async def test_ambiguous_or_invalid_http_gets_400_and_saves_nothing(
    client: Server, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {name: await raw(client, whole) for name, whole in BAD_REQUESTS.items()}

    assert {name: status_of(answer) for name, answer in answers.items()} == dict.fromkeys(BAD_REQUESTS, 400)
    assert await count_saved(database) == 0
    assert (await client.send(client.zendesk.payload()))["status"] == "accepted"


@pytest.mark.parametrize(
    "path",
    [
        "/webhooks/zendesk/",
        "/webhooks/zendesk//",
        "//webhooks/zendesk",
        "/webhooks//zendesk",
        "///webhooks//zendesk///?a=b",
        "/%77ebhooks//zendesk",
    ],
)
async def test_doubled_and_trailing_slashes_reach_the_webhook(
    path: str, client: Server, database: asyncpg.Connection
) -> None:
    """Administrators type the address by hand; a refusal would lose every webhook."""
    line = f"POST {path} HTTP/1.1".encode()
    counted = 'holdfast_webhooks_total{outcome="accepted"}'
    before = await metric(client, counted)

    answer = await raw(client, request(line=line))
    refused = await raw(client, changed(request(line=line, Accept="text/html"), SIGNATURE, "missing"))

    assert status_of(answer) == 200
    assert await bodies(database) == [TICKET]
    assert await metric(client, counted) == before + 1
    assert status_of(refused) == 401
    assert b"application/problem+json" in refused


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_only_post_is_accepted_at_another_spelling(
    method: str, client: Server, database: asyncpg.Connection
) -> None:
    line = f"{method} /webhooks//zendesk/ HTTP/1.1".encode()

    assert status_of(await raw(client, request(line=line))) in {404, 405}
    assert await count_saved(database) == 0


@pytest.mark.parametrize(
    "path",
    [
        "/webhooks/./zendesk",
        "/x/../webhooks/zendesk",
        "/webhooks/zendesk/x",
        "/webhookszendesk",
        "/a/webhooks/zendesk",
    ],
)
async def test_other_variants_of_the_path_get_404(
    path: str, client: Server, database: asyncpg.Connection
) -> None:
    answer = await raw(client, request(line=f"POST {path} HTTP/1.1".encode()))

    assert status_of(answer) == 404
    assert await count_saved(database) == 0


async def test_unknown_expect_header_is_refused(client: Server, database: asyncpg.Connection) -> None:
    assert status_of(await raw(client, request(TICKET, b"Expect: more"))) == 417
    assert await count_saved(database) == 0


async def test_pipelined_requests_are_answered_in_order(client: Server, database: asyncpg.Connection) -> None:
    sent = [b'{"ticket_id": %d}' % number for number in range(100)]
    requests = [request(body, connection="keep-alive") for body in sent[:-1]] + [request(sent[-1])]

    answers = await raw(client, b"".join(requests))

    ids = [int(number) for number in re.findall(rb'"accepted", "email_id": (\d+)', answers)]
    assert ids == list(range(1, 101))
    assert await bodies(database) == sent


# A gigabyte of zeros, packed into about the largest accepted body


def _packed(wbits: int) -> bytes:
    packer = zlib.compressobj(9, wbits=wbits)
    head = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * 800


BOMBS = {
    "gzip": _packed(31),
    "deflate": _packed(15),
    # A frame with a window of 128 KiB, then blocks that each repeat one byte 128 Ki times (RFC 8878, 3.1.1.2).
    "zstd": b"\x28\xb5\x2f\xfd\x00\x38" + b"\x02\x00\x10\x00" * 8000,
    "br": b"\x5b\xff\xff\x3f" + bytes(MIB // 2),  # no compressor here could make one
}


@pytest.mark.parametrize("encoding", BOMBS)
async def test_compression_bomb_is_saved_packed(
    encoding: str, client: Server, database: asyncpg.Connection
) -> None:
    bomb, before = BOMBS[encoding], await peak_memory()
    names = [encoding, encoding.upper(), f"{encoding}, {encoding}", f"identity, {encoding}", f"x-{encoding}"]

    answers = [await raw(client, request(bomb, Content_Encoding=name)) for name in names]

    codes = await database.fetch("SELECT DISTINCT error_code FROM quarantined_webhooks")
    assert {status_of(answer) for answer in answers} == {200}
    assert await bodies(database, "quarantined_webhooks") == [bomb] * len(names)
    assert [row["error_code"] for row in codes] == ["compressed"]
    assert await peak_memory() < before + 200 * MIB


@pytest.mark.parametrize("encoding", BOMBS)
async def test_unlabelled_compression_bomb_is_saved_packed(
    encoding: str, client: Server, database: asyncpg.Connection
) -> None:
    bomb, before = BOMBS[encoding], await peak_memory()
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(bomb), bomb)

    answers = [
        await raw(client, request(bomb)),
        await raw(client, request(bomb, f"Transfer-Encoding: {encoding}, chunked".encode(), framed=framed)),
    ]

    assert {status_of(answer) for answer in answers} == {200}
    assert await bodies(database, "quarantined_webhooks") == [bomb, bomb]
    assert await peak_memory() < before + 200 * MIB


async def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    status = await asyncio.to_thread(Path("/proc/self/status").read_text)
    peak = re.search(r"VmHWM:\s*(\d+)", status)
    assert peak
    return int(peak[1]) * 1024


# Stalled connections


@pytest.fixture
async def held(client: Server) -> AsyncIterator[None]:
    """Hold 300 connections: silent ones, ones within their head, and ones after an answer."""
    port = int(client.url.rpartition(":")[2])
    streams = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(300)))
    for number, (_, writer) in enumerate(streams):
        if number % 3 == 1:
            writer.write(request()[: 100 + number])
        elif number % 3 == 2:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: holdfast\r\n\r\n" + request()[:number])
    await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in streams[2::3]))
    yield
    for _, writer in streams:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for _, writer in streams), return_exceptions=True)


async def test_300_stalled_connections_delay_no_webhook(
    held: None, client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    async with asyncio.timeout(NO_HANG):
        receipts = await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(50)))
        await is_alive(client)

    assert {receipt["status"] for receipt in receipts} == {"accepted"}
    assert await count_saved(database) == 50


async def is_alive(client: Client) -> None:
    async with client.session.get(f"{client.url}/healthz") as response:
        assert response.status == 200
