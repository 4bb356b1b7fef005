"""A URL becomes a bounded stream, for any behaviour of the server."""

import asyncio
import gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from service.errors import HoldfastError, Permanent, Transient
from service.outbound.responses import Expected, Limits
from service.outbound.transfer import open_session
from tests.support.file_server import (
    EGRESS,
    Server,
    close,
    fetch,
    fetch_error,
    ok,
    open_transfer,
    redirect,
    reset,
    send_for_ever,
    until,
    wait_for_ever,
)


async def test_the_file_arrives_unchanged(server: Server) -> None:
    content = bytes(range(256)) * 3000
    server.answers["*"] = ok(content)

    assert await fetch(server.url(), Expected("a.bin", "application/octet-stream", len(content))) == content


async def test_chunks_are_small(server: Server) -> None:
    server.answers["*"] = ok(bytes(9_000_000))

    async with open_transfer(server.url(), limits=Limits(10_000_000, 20, 20)) as chunks:
        sizes = []
        async for chunk in chunks:
            sizes.append(len(chunk))
            await asyncio.sleep(0.01)  # the sender is faster than the reader

    assert sum(sizes) == 9_000_000
    assert max(sizes) < 1024**2


async def test_a_chunked_file_without_announced_size_is_complete_at_its_end(server: Server) -> None:
    server.answers["*"] = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )

    assert await fetch(server.url()) == b"abcde"


async def test_an_empty_file_is_a_file(server: Server) -> None:
    server.answers["*"] = ok(b"")

    assert await fetch(server.url(), Expected("empty.txt", "text/plain", 0)) == b""


async def test_the_server_learns_only_what_it_needs(server: Server) -> None:
    server.answers["*"] = ok(b"x", "Set-Cookie: a=b; Path=/")
    async with open_session(EGRESS) as session:
        for _ in range(2):
            await fetch(server.url(), session=session)

    names = {line.partition(":")[0] for line in server.requests[1].strip().split("\r\n")[1:]}
    assert names == {"Host", "Accept", "Accept-Encoding", "User-Agent"}
    assert "User-Agent: holdfast\r\n" in server.requests[1]
    assert "Accept-Encoding: identity\r\n" in server.requests[1]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (201, Permanent, "unexpected_status"),
        (202, Transient, "not_ready"),
        (409, Transient, "not_ready"),
        (423, Transient, "not_ready"),
        (204, Permanent, "unexpected_status"),
        (206, Permanent, "unexpected_status"),
        (300, Permanent, "unexpected_status"),
        (304, Permanent, "unexpected_status"),
        (400, Permanent, "unexpected_status"),
        (401, Permanent, "unauthorized"),
        (403, Permanent, "forbidden"),
        (404, Permanent, "not_found"),
        (408, Transient, "server_error"),
        (410, Permanent, "attachment_gone"),
        (418, Permanent, "unexpected_status"),
        (425, Transient, "server_error"),
        (429, Transient, "rate_limited"),
        (500, Transient, "server_error"),
        (503, Transient, "server_error"),
        (599, Transient, "server_error"),
        (799, Permanent, "unexpected_status"),
    ],
)
async def test_each_status_has_a_kind_and_a_code(
    server: Server, status: int, kind: type[HoldfastError], code: str
) -> None:
    server.answers["*"] = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()

    error = await fetch_error(server.url("/file?token=hidden"))

    assert (type(error), error.code) == (kind, code)
    assert "127.0.0.1" in error.message
    assert "hidden" not in error.message


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("7", 7),
        ("0", 0),
        (format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True), 0),
        (format_datetime(datetime(2220, 1, 1, tzinfo=UTC), usegmt=True), None),
        ("-7", None),
        ("soon", None),
        ("", None),
        ("\u0667", None),
        ("9" * 5000, None),
        ("99999999", None),
        ("Mon, 99 Foo 99999 99:99:99 GMT", None),
        ("Wed, 01 Jan 2020 00:00:00 -0000", None),
    ],
)
async def test_a_valid_retry_after_is_passed_on(server: Server, value: str, pause: int | None) -> None:
    server.answers["*"] = f"HTTP/1.1 429 X\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode()

    error = await fetch_error(server.url())

    assert isinstance(error, Transient)
    assert error.retry_after == (None if pause is None else timedelta(seconds=pause))


async def test_a_retry_after_date_is_passed_on(server: Server) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server.answers["*"] = f"HTTP/1.1 503 X\r\nRetry-After: {until}\r\nContent-Length: 0\r\n\r\n".encode()

    error = await fetch_error(server.url())

    assert isinstance(error, Transient)
    assert error.retry_after
    assert timedelta(minutes=50) < error.retry_after <= timedelta(hours=1)


async def test_too_large_a_file_is_refused_before_the_first_byte(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"
    server.then = wait_for_ever

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (Permanent, "too_large")


async def test_exactly_the_limit_is_not_too_large(server: Server) -> None:
    server.answers["*"] = ok(bytes(1000))

    assert len(await fetch(server.url(), limits=Limits(1000, 20, 20))) == 1000


async def test_an_endless_file_ends_at_the_limit(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.then = send_for_ever(b"1000\r\n" + bytes(0x1000) + b"\r\n")

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (Permanent, "too_large")
    await asyncio.wait_for(server.closed.wait(), 20)


async def test_a_slow_sender_does_not_exceed_the_total_time(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    server.then = send_for_ever(b"x", pause=0.05)

    error = await fetch_error(server.url(), limits=Limits(1_000_000, 0.4, 20))

    assert (type(error), error.code) == (Transient, "download_timeout")


async def test_the_total_time_covers_slow_headers(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nX: "
    server.then = send_for_ever(b"x", pause=0.05)

    error = await fetch_error(server.url(), limits=Limits(1_000_000, 0.4, 20))

    assert (type(error), error.code) == (Transient, "download_timeout")


async def test_the_total_time_covers_redirects(server: Server) -> None:
    server.answers["*"] = redirect("/file")

    async def later(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.6)
        writer.write(redirect("/file"))

    server.answers["*"] = b""
    server.then = later

    error = await fetch_error(server.url(), limits=Limits(1_000_000, 1.5, 20))

    assert (type(error), error.code) == (Transient, "download_timeout")
    assert len(server.requests) > 1


async def test_the_total_time_covers_a_server_that_is_always_ready(server: Server) -> None:
    server.answers["*"] = ok(bytes(900_000))

    async with open_transfer(server.url(), limits=Limits(1_000_000, 1, 20)) as chunks:
        await anext(chunks)
        await asyncio.sleep(1.1)
        with pytest.raises(Transient) as failed:
            await anext(chunks)

    assert failed.value.code == "download_timeout"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc"])
async def test_a_silent_server_is_a_stall(server: Server, sent: bytes) -> None:
    server.answers["*"] = sent
    server.then = wait_for_ever

    error = await fetch_error(server.url(), limits=Limits(1_000_000, 20, 0.2))

    assert (type(error), error.code) == (Transient, "download_stalled")
    await asyncio.wait_for(server.closed.wait(), 20)


async def test_a_slow_reader_is_not_a_stall(server: Server) -> None:
    server.answers["*"] = ok(bytes(900_000))

    async with open_transfer(server.url(), limits=Limits(1_000_000, 20, 1)) as chunks:
        size = len(await anext(chunks))
        await asyncio.sleep(1.2)
        async for chunk in chunks:
            size += len(chunk)

    assert size == 900_000


@pytest.mark.parametrize("cancelled_in", ["headers", "body"])
async def test_a_cancellation_stays_a_cancellation(server: Server, cancelled_in: str) -> None:
    server.answers["*"] = (
        b"" if cancelled_in == "headers" else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    )
    server.then = wait_for_ever
    task = asyncio.create_task(fetch(server.url()))
    await until(lambda: bool(server.requests))

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.closed.wait(), 20)


async def test_an_error_of_the_reader_is_not_translated(server: Server) -> None:
    server.answers["*"] = ok(bytes(900_000))

    error = OSError("disk full")
    with pytest.raises(OSError, match="disk full") as failed:
        async with open_transfer(server.url()):
            raise error

    assert failed.value is error


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 99,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + b"x" * 99,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + b"x" * 100 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
    ],
)
@pytest.mark.parametrize("end", ["closed", "reset"])
async def test_a_truncated_file_is_an_error(server: Server, sent: bytes, end: str) -> None:
    server.answers["*"] = sent
    server.then = reset if end == "reset" else close

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (Transient, "connection_lost")


async def test_without_a_length_a_short_file_is_a_lost_connection(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 99
    server.then = close

    error = await fetch_error(server.url(), Expected("a.bin", None, 100))

    assert (type(error), error.code) == (Transient, "connection_lost")


@pytest.mark.parametrize("sent", [b"", b"half of it"])
async def test_without_any_length_the_end_proves_nothing(server: Server, sent: bytes) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + sent
    server.then = close

    error = await fetch_error(server.url(), Expected("a.bin"))

    assert (type(error), error.code) == (Transient, "connection_lost")
    assert "sent no length" in error.message


async def test_an_announced_size_proves_the_end(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole"
    server.then = close

    assert await fetch(server.url(), Expected("a.bin", None, 5)) == b"whole"


@pytest.mark.parametrize("coding", ["chunked, identity", "identity, chunked", "identity", "Chunked, chunked"])
async def test_only_chunked_is_a_framing(server: Server, coding: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n"
    server.answers["*"] = head.encode() + b"5\r\nhello\r\n0\r\n\r\n"
    server.then = close

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (Permanent, "unexpected_encoding")


@pytest.mark.parametrize("size", [99, 101])
async def test_a_different_size_than_announced_is_an_error(server: Server, size: int) -> None:
    server.answers["*"] = ok(b"x" * size)

    error = await fetch_error(server.url(), Expected("a.bin", None, 100))

    assert (type(error), error.code) == (Permanent, "size_mismatch")


async def test_more_bytes_than_the_length_says_are_a_bad_response(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdefgh"
    server.then = close

    assert (await fetch_error(server.url())).code == "bad_response"


async def test_an_unrequested_transfer_coding_is_refused(server: Server) -> None:
    server.answers["*"] = ok(gzip.compress(bytes(1000)), "Transfer-Encoding: gzip")
    server.then = close

    assert (await fetch_error(server.url())).code in {"unexpected_encoding", "bad_response"}


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"HTTP/1.1 " + b"2" * 200_000,
        b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1/" + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_invalid_http_is_a_bad_response(server: Server, sent: bytes) -> None:
    server.answers["*"] = sent
    server.then = close

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (Transient, "bad_response")


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 100,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000,
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename*=x'y'%ff%00;;;=\"\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Type: \xff\xfe;;;\r\nContent-Length: 5\r\n\r\n<x",
        b"HTTP/1.1 302 X\r\nLocation: \xff\xfe%%%\x7f\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 X\r\nRetry-After: \xff\xfe , , : GMT\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_any_other_bytes_end_in_an_error_of_ours(server: Server, sent: bytes) -> None:
    server.answers["*"] = sent
    server.then = close

    error = await fetch_error(server.url("/file?token=hidden"), limits=Limits(1_000_000, 5, 5))

    assert isinstance(error, Transient | Permanent)
    assert "hidden" not in error.message
