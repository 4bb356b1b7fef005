"""Hostile servers: their responses end as errors with stable codes, and never as stored files."""

import asyncio
import gzip
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.config.settings import Settings
from service.errors import HoldfastError
from service.local.zendesk.stand_in import Zendesk
from service.outbound.egress import Egress
from service.outbound.responses import Expected, Limits
from service.outbound.transfer import download, open_session
from service.resources import Resources
from service.zendesk.access import FileAccess
from service.zendesk.account import Account
from tests.conftest import Client, eventually, serving, working

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PACKED = gzip.compress(bytes(1000))
MIB = 1024**2


@dataclass(frozen=True)
class Reply:
    """Bytes, bytes that are repeated without end, and an end: close, reset or silence."""

    sent: bytes = b""
    endless: bytes = b""
    end: str = "close"


def whole(content: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([OK + b"Content-Length: %d" % len(content), *headers, b"", content])


def redirect(location: bytes) -> Reply:
    return Reply(b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")


# Responses that are refused on arrival. Each file is announced with 100 bytes.
QUICK: dict[str, tuple[str, Reply]] = {
    "closes-at-99-of-100": ("connection_lost", Reply(OK + b"Content-Length: 100\r\n\r\n" + bytes(99))),
    "resets-at-99-of-100": (
        "connection_lost",
        Reply(OK + b"Content-Length: 100\r\n\r\n" + bytes(99), end="reset"),
    ),
    "closes-within-chunks": ("connection_lost", Reply(CHUNKED + b"64\r\n" + bytes(100) + b"\r\n")),
    "closes-without-a-length": ("connection_lost", Reply(OK + b"\r\n" + bytes(99))),
    "closes-unframed-without-a-length": ("connection_lost", Reply(OK + b"\r\n%PDF half")),
    "closes-unframed-without-a-byte": ("connection_lost", Reply(OK + b"\r\n")),
    "closes-at-once": ("connection_lost", Reply()),
    "resets-at-once": ("connection_lost", Reply(end="reset")),
    "is-packed-as-a-second-line-says": (
        "size_mismatch",
        Reply(whole(PACKED, b"Content-Encoding: identity", b"Content-Encoding: gzip")),
    ),
    "is-framed-as-a-second-line-says": (
        "unexpected_encoding",
        Reply(OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n" + PACKED),
    ),
    "is-too-short": ("size_mismatch", Reply(whole(bytes(99)))),
    "is-too-long": ("size_mismatch", Reply(whole(bytes(101)))),
    "is-longer-than-it-says": ("bad_response", Reply(whole(bytes(100)) + b"more")),
    "says-it-is-too-large": ("too_large", Reply(OK + b"Content-Length: 99999999999\r\n\r\n", end="silence")),
    "never-ends": ("too_large", Reply(OK + b"\r\n", bytes(65536))),
    "never-ends-in-chunks": ("too_large", Reply(CHUNKED, b"1000\r\n" + bytes(4096) + b"\r\n")),
    "never-ends-in-chunks-of-a-byte": ("too_large", Reply(CHUNKED, b"1\r\nx\r\n" * 10_000)),
    "has-endless-headers": ("bad_response", Reply(OK, b"X-A: b\r\n" * 5000)),
    "has-an-endless-header": ("bad_response", Reply(OK + b"X-A: ", b"b" * 65536)),
    "has-an-endless-reason": ("bad_response", Reply(b"HTTP/1.1 200 ", b"O" * 65536)),
    "has-endless-trailers": ("bad_response", Reply(CHUNKED + b"1\r\nx\r\n0\r\n", b"X-A: b\r\n" * 5000)),
    "has-an-endless-trailer": ("bad_response", Reply(CHUNKED + b"1\r\nx\r\n0\r\nX-A: ", b"b" * 65536)),
    "has-an-endless-chunk-size": ("bad_response", Reply(CHUNKED, b"f" * 65536)),
    "has-a-length-and-chunks": (
        "bad_response",
        Reply(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ),
    "has-two-lengths": (
        "bad_response",
        Reply(OK + b"Content-Length: 100\r\nContent-Length: 100\r\n\r\n" + bytes(100)),
    ),
    "has-a-length-with-a-sign": ("bad_response", Reply(OK + b"Content-Length: +100\r\n\r\n" + bytes(100))),
    "is-no-http": ("bad_response", Reply(b"\0\xff garbage\r\n\r\n")),
    "speaks-another-protocol": (
        "unexpected_status",
        Reply(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
    ),
    "sends-a-part": (
        "unexpected_status",
        Reply(b"HTTP/1.1 206 X\r\nContent-Length: 100\r\n\r\n" + bytes(100)),
    ),
    "is-gone-for-ever": (
        "not_found",
        Reply(b"HTTP/1.1 404 X\r\n" + CHUNKED[len(OK) :], b"1\r\nx\r\n" * 1000),
    ),
    "sends-a-page": ("sign_in_page", Reply(whole(b"<html>" + bytes(94), b"Content-Type: text/html"))),
    "redirects-to-itself": ("too_many_redirects", redirect(b"/redirects-to-itself")),
    "redirects-for-ever": (
        "too_many_redirects",
        Reply(
            b"HTTP/1.1 302 X\r\nLocation: /redirects-for-ever\r\n" + CHUNKED[len(OK) :], b"1\r\nx\r\n" * 1000
        ),
    ),
    "redirects-to-metadata": ("address_refused", redirect(b"http://169.254.169.254/latest/meta-data/")),
    "redirects-to-a-file": ("bad_response", redirect(b"file:///etc/passwd")),
    "redirects-to-the-sign-in": ("sign_in_page", redirect(b"/access/unauthenticated?return_to=x")),
    **{
        f"is-packed-with-{encoding.decode().replace(', ', '-and-')}": (
            code,
            Reply(whole(PACKED, b"Content-Encoding: " + encoding)),
        )
        for encoding, code in (
            (b"gzip", "size_mismatch"),
            (b"GZIP", "size_mismatch"),
            (b"x-gzip", "size_mismatch"),
            (b"deflate", "bad_encoding"),
            (b"br", "bad_encoding"),
            (b"zstd", "size_mismatch"),
            (b"gzip, gzip", "size_mismatch"),
            (b"identity, gzip", "size_mismatch"),
            (b"gzip, gzip, gzip", "unexpected_encoding"),
            (b"compress", "unexpected_encoding"),
        )
    },
    **{
        f"is-framed-as-{framing.decode().replace(', ', '-and-')}": (
            "unexpected_encoding",
            Reply(
                OK + b"Transfer-Encoding: %s\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (framing, len(PACKED), PACKED)
            ),
        )
        for framing in (
            *(b"gzip, chunked", b"chunked, gzip", b"xchunked"),
            *(b"chunked, identity", b"identity, chunked", b"chunked, chunked", b"identity"),
        )
    },
}
# Responses that only a timeout distinguishes from a slow network.
SLOW = {
    "is-silent": Reply(end="silence"),
    "is-silent-after-its-headers": Reply(OK + b"Content-Length: 100\r\n\r\n", end="silence"),
    "is-silent-at-99-of-100": Reply(OK + b"Content-Length: 100\r\n\r\n" + bytes(99), end="silence"),
    "has-an-endless-chunk-extension": Reply(CHUNKED + b"1;", b"x" * 65536),
    "has-a-chunk-size-of-endless-zeros": Reply(CHUNKED, b"0" * 65536),
    "is-about-to-continue-for-ever": Reply(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    "has-endless-hints": Reply(
        b"", (b"HTTP/1.1 103 Early Hints\r\n" + b"Link: <x>\r\n" * 50 + b"\r\n") * 100
    ),
    "begins-with-endless-empty-lines": Reply(b"", b"\r\n" * 30_000),
}
IMPATIENT = {"download_seconds": 0.6, "download_stall_seconds": 0.3}
GAVE_UP = {"connection_failed", "download_stalled", "download_timeout"}
# A busy event loop may renew its leases late.
CALM = {"lease_seconds": 60, "max_attachment_bytes": 200_000}


@pytest.fixture
async def hostile() -> AsyncIterator[Callable[[str], str]]:
    """Run a server that replies by its path; yield a function from replies to addresses."""
    replies = {name: reply for name, (_, reply) in QUICK.items()} | SLOW

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                reply = replies[request.split(b" ")[1].decode().strip("/")]
                writer.write(reply.sent)
                await writer.drain()
                while reply.endless:
                    writer.write(reply.endless)
                    await writer.drain()
                    await asyncio.sleep(0)
                if reply.end == "silence":
                    await reader.read()
                if reply.end == "reset":
                    await asyncio.sleep(0.05)  # so that the sent bytes are not discarded with the connection
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield lambda name: f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{name}"


async def failure(url: str, limits: Limits) -> HoldfastError:
    async def fetch() -> None:
        async with download(
            session,
            egress,
            url,
            expected=Expected("a.bin"),
            limits=limits,
            access=FileAccess(Account(), None),
        ) as chunks:
            async for _ in chunks:
                pass

    egress = Egress(("127.0.0.1",), private_networks=True)
    async with open_session(egress) as session:
        with pytest.raises(HoldfastError) as failed:
            await fetch()
    return failed.value


ENDLESS = [name for name, (_, reply) in QUICK.items() if reply.endless] + [n for n in SLOW if SLOW[n].endless]


@pytest.mark.parametrize("name", ENDLESS)
async def test_an_endless_response_ends_and_stays_out_of_memory(
    name: str, hostile: Callable[[str], str]
) -> None:
    before = await peak_memory()

    error = await failure(hostile(name), Limits(200_000, 0.6 if name in SLOW else 60, 30))

    assert error.code == ("download_timeout" if name in SLOW else QUICK[name][0])
    assert await peak_memory() < before + 100 * MIB


async def peak_memory() -> int:
    """Return this process's peak of memory in bytes."""
    status = await asyncio.to_thread(Path("/proc/self/status").read_text)
    peak = re.search(r"VmHWM:\s*(\d+)", status)
    assert peak
    return int(peak[1]) * 1024


# Through the webhook, the queue and a worker


async def test_no_hostile_response_is_stored_as_a_file(
    settings: Settings, zendesk: Zendesk, res: Resources, hostile: Callable[[str], str], tmp_path: Path
) -> None:
    settings = settings.model_copy(update={**CALM, "max_retries": 0})
    async with serving(settings, zendesk) as client, working(settings):
        email = await captured(client, hostile, *QUICK)

    codes = {file["file_name"]: file["error_code"] for file in email["attachments"]}
    assert codes == {name: code for name, (code, _) in QUICK.items()}
    assert {file["status"] for file in email["attachments"]} == {"failed"}
    assert email["processing_status"] == "failed"
    # The evidence log may be writing a head by way of the spool.
    await eventually(lambda: asyncio.to_thread(lambda: not files_below(tmp_path)))


async def test_a_slow_hostile_server_is_retried_and_then_fails(
    settings: Settings, zendesk: Zendesk, res: Resources, hostile: Callable[[str], str], tmp_path: Path
) -> None:
    settings = settings.model_copy(update={**CALM, **IMPATIENT, "max_retries": 1})
    async with serving(settings, zendesk) as client, working(settings):
        email = await captured(client, hostile, *SLOW)

    assert {file["status"] for file in email["attachments"]} == {"failed"}
    assert {file["error_code"] for file in email["attachments"]} <= GAVE_UP
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["released", "failed"]
    assert (email["processing_status"], email["error_code"] in GAVE_UP) == ("failed", True)
    # The evidence log may be writing a head by way of the spool.
    await eventually(lambda: asyncio.to_thread(lambda: not files_below(tmp_path)))


async def captured(client: Client, hostile: Callable[[str], str], *names: str) -> dict[str, Any]:
    files = [{"url": hostile(name), "filename": name, "size": size_of(name)} for name in names]
    receipt = await client.send({"ticket_id": 1, "attachments": files})
    return await client.until(receipt["email_id"], "completed", "failed")


def size_of(name: str) -> int | str:
    """Announce no size where a size alone would reveal the file as false."""
    return "" if "framed" in name else 100


def files_below(directory: Path) -> list[Path]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return [path for path in found if "heads" not in path.parts]  # of the evidence log


async def test_a_connection_without_tls_is_used_for_one_response() -> None:
    """Unrequested bytes on an idle connection would pass for the next file, or fill the memory."""
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(whole(b"asked"))
        writer.close()

    egress = Egress(("127.0.0.1",), private_networks=True)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_session(egress) as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for _ in range(2):
            async with download(
                session,
                egress,
                url,
                expected=Expected(),
                limits=Limits(1000, 60, 60),
                access=FileAccess(Account(), None),
            ) as chunks:
                assert [chunk async for chunk in chunks] == [b"asked"]

    assert len(connections) == 2
