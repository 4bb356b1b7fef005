"""A URL becomes a bounded stream, whatever the server does."""

import asyncio
import gzip
import random
import socket
import ssl
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import brotli
import pytest
import trustme
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient
from service.outbound.egress import Egress
from service.outbound.responses import Expected, Limits
from service.outbound.transfer import Access, download, open_session
from service.zendesk.account import Account, FixedToken
from service.zendesk.client import FileAccess
from service.zendesk.login import FixedLogin

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EGRESS = Egress(("127.0.0.1", "localhost", "*.invalid"), private_networks=True)
LIMITS = Limits(max_bytes=1_000_000, seconds=20, stall_seconds=20)
SECRET = "Basic c2VjcmV0"
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title>"
# A location, and a token in it, that any re-quoting would change.
SIGNED = "/f%69le/a%2Fb/c+d?token=%7eA%2Fb%2bc+d==&X=%3d~(')&name=r%C3%A9sum%C3%A9"


Then = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NOTHING = Expected()
NOBODY = FileAccess(Account(), None)


@dataclass
class Server:
    """Answers each request with the bytes that `answer` gives for its path; notes what came."""

    scheme: str = "http"
    port: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    then: Then | None = None

    def url(self, path: str = "/file", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                self.requests.append(request)
                path = request.split(" ")[1]
                writer.write(self.answers.get(path, self.answers.get("*", b"")))
                await writer.drain()
                if self.then:
                    await self.then(reader, writer)
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed.set()
        finally:
            writer.close()


async def test_the_file_comes_as_it_is(server: Server) -> None:
    content = bytes(range(256)) * 3000
    server.answers["*"] = _ok(content)

    assert await _fetch(server.url(), Expected("a.bin", "application/octet-stream", len(content))) == content


async def test_chunks_are_small(server: Server) -> None:
    server.answers["*"] = _ok(bytes(9_000_000))

    async with _open(server.url(), limits=Limits(10_000_000, 20, 20)) as chunks:
        sizes = []
        async for chunk in chunks:
            sizes.append(len(chunk))
            await asyncio.sleep(0.01)  # the sender is faster than we are

    assert sum(sizes) == 9_000_000
    assert max(sizes) < 1024**2


async def test_a_chunked_file_of_no_announced_size_is_whole_at_its_end(server: Server) -> None:
    server.answers["*"] = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )

    assert await _fetch(server.url()) == b"abcde"


async def test_an_empty_file_is_a_file(server: Server) -> None:
    server.answers["*"] = _ok(b"")

    assert await _fetch(server.url(), Expected("empty.txt", "text/plain", 0)) == b""


async def test_the_server_learns_no_more_than_needed(server: Server) -> None:
    server.answers["*"] = _ok(b"x", "Set-Cookie: a=b; Path=/")
    async with open_session(EGRESS) as session:
        for _ in range(2):
            await _fetch(server.url(), session=session)

    names = {line.partition(":")[0] for line in server.requests[1].strip().split("\r\n")[1:]}
    assert names == {"Host", "Accept", "Accept-Encoding", "Connection", "User-Agent"}
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
async def test_a_status_says_what_to_do(
    server: Server, status: int, kind: type[HoldfastError], code: str
) -> None:
    server.answers["*"] = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()

    error = await _error(server.url("/file?token=hidden"))

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
async def test_a_pause_asked_for_is_passed_on_unless_it_is_nonsense(
    server: Server, value: str, pause: int | None
) -> None:
    server.answers["*"] = f"HTTP/1.1 429 X\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode()

    error = await _error(server.url())

    assert isinstance(error, Transient)
    assert error.retry_after == (None if pause is None else timedelta(seconds=pause))


async def test_a_pause_until_a_time_is_passed_on(server: Server) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server.answers["*"] = f"HTTP/1.1 503 X\r\nRetry-After: {until}\r\nContent-Length: 0\r\n\r\n".encode()

    error = await _error(server.url())

    assert isinstance(error, Transient)
    assert error.retry_after
    assert timedelta(minutes=50) < error.retry_after <= timedelta(hours=1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("absolute", [True, False])
async def test_a_redirect_is_followed_to_the_letter(server: Server, status: int, absolute: bool) -> None:  # noqa: FBT001 a table
    server.answers["/file"] = _redirect(server.url(SIGNED) if absolute else SIGNED, status)
    server.answers[SIGNED] = _ok(b"content")

    assert await _fetch(server.url()) == b"content"
    assert server.requests[1].startswith(f"GET {SIGNED} HTTP/1.1\r\n")


async def test_the_first_address_is_requested_to_the_letter(server: Server) -> None:
    server.answers[SIGNED] = _ok(b"content")

    assert await _fetch(server.url(SIGNED)) == b"content"


async def test_what_cannot_stand_in_a_request_line_is_quoted(server: Server) -> None:
    server.answers["/a%20b%C3%A9"] = _ok(b"content")
    server.answers["/file"] = b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: /a b\xc3\xa9#part\r\n\r\n"

    assert await _fetch(server.url()) == b"content"
    assert await _fetch(server.url("/a bé")) == b"content"


async def test_credentials_go_to_attachments_of_their_account_alone(server: Server, other: Server) -> None:
    """Neither to the CDN, nor to another port or host name, nor to another path; again where a redirect leads back."""
    first, last = "/attachments/token/a/?name=x", "/attachments/token/b/?name=x"
    server.answers[first] = _redirect(other.url("/cdn"))
    other.answers["/cdn"] = _redirect(server.url("/attachments/token/c/", "localhost"))
    server.answers["/attachments/token/c/"] = _redirect(server.url("/brand/logo"))
    server.answers["/brand/logo"] = _redirect(server.url(last))
    server.answers[last] = _ok(b"content")

    await _fetch(server.url(first), access=access_of(server))

    sent = [SECRET in request for request in (*server.requests, *other.requests)]
    assert sent == [True, False, False, True, False]


@pytest.mark.parametrize(
    "path",
    [
        "/hc/article/1",
        "//attachments/token/a",
        "/attachments/..%00/api",
        "/attachments/%09../api",
        "/attachments/%u002e%u002e/api",
        "/attachments/token/a/b/c",
        "/Attachments/token/a",
        "/x/attachments/token/a",
        "/attachments",
    ],
)
async def test_no_path_that_may_be_another_than_an_attachments_gets_credentials(
    server: Server, path: str
) -> None:
    server.answers["*"] = _ok(b"content")

    await _fetch(server.url(path), access=access_of(server))

    assert SECRET not in server.requests[0]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v2/users.json",
        "//api/v2/users.json",
        "/attachments/../api/v2/users/me.json",
        "/attachments/%2e%2e/api/v2/users.json",
        "/attachments/%252e%252e/api/v2/users.json",
        "/attachments/..%2fapi/v2/users.json",
        "/attachments/..%5capi/v2/users.json",
        "/attachments/..;x/api/v2/users.json",
        "/attachments\\..\\api/v2/users.json",
    ],
)
async def test_what_the_api_answers_is_never_taken_for_a_file(server: Server, path: str) -> None:
    """Without credentials, too: it tells anybody that he is nobody, in JSON that could be stored as an invoice."""
    server.answers["*"] = _ok(b"{}")

    with pytest.raises(Permanent, match="API") as refused:
        await _fetch(server.url(path), access=access_of(server))

    assert (refused.value.code, server.requests) == ("address_refused", [])


async def test_further_hosts_of_the_account_get_credentials(server: Server, other: Server) -> None:
    server.answers["*"] = _ok(b"content")
    account = Account(URL(other.url()), (f"127.0.0.1:{server.port}",))

    await _fetch(server.url("/attachments/token/a/"), access=FileAccess(account, FixedLogin(SECRET)))

    assert SECRET in server.requests[0]


async def test_another_account_gets_no_credentials(server: Server, other: Server) -> None:
    server.answers["*"] = _ok(b"content")

    await _fetch(server.url("/attachments/token/a/"), access=access_of(other))

    assert SECRET not in server.requests[0]


def test_credentials_do_not_show_themselves() -> None:
    assert SECRET not in repr(FixedToken("api_token", SECRET))
    assert SECRET not in repr(FileAccess(Account(URL("https://acme.zendesk.com")), FixedLogin(SECRET)))


async def test_a_loop_of_redirects_ends(server: Server) -> None:
    server.answers["*"] = _redirect("/file")

    error = await _error(server.url())

    assert (type(error), error.code, len(server.requests)) == (Permanent, "too_many_redirects", 6)


async def test_five_redirects_are_followed(server: Server) -> None:
    server.answers = {f"/{n}": _redirect(f"/{n + 1}") for n in range(5)} | {"/5": _ok(b"content")}

    assert await _fetch(server.url("/0")) == b"content"


@pytest.mark.parametrize(
    ("location", "kind", "code"),
    [
        ("https://evil.example/x", Permanent, "address_refused"),
        ("https://127.0.0.1.evil.example/x", Permanent, "address_refused"),
        ("http://user:password@127.0.0.1/x", Permanent, "address_refused"),
        ("http://2130706433/x", Permanent, "address_refused"),
        ("//evil.example/x", Permanent, "address_refused"),
        ("file:///etc/passwd", Transient, "bad_response"),
        ("gopher://127.0.0.1/x", Permanent, "address_refused"),
        ("http://[::1/x", Transient, "bad_response"),
        ("http://127.0.0.1:99999/x", Transient, "bad_response"),
        ("", Transient, "bad_response"),
    ],
)
async def test_a_redirect_goes_nowhere_else(
    server: Server, location: str, kind: type[HoldfastError], code: str
) -> None:
    server.answers["/file"] = _redirect(location)

    error = await _error(server.url())

    assert (type(error), error.code) == (kind, code)
    assert len(server.requests) == 1


async def test_a_redirect_without_a_location_is_a_bad_response(server: Server) -> None:
    server.answers["/file"] = b"HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n"

    assert (await _error(server.url())).code == "bad_response"


async def test_a_redirect_does_not_lead_out_of_tls(
    secure: Server, server: Server, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    secure.answers["*"] = _redirect(server.url())

    error = await _error(secure.url())

    assert (type(error), error.code) == (Permanent, "address_refused")
    assert (len(secure.requests), server.requests) == (1, [])


async def test_a_certificate_that_nobody_vouches_for_is_a_tls_failure(secure: Server) -> None:
    error = await _error(secure.url())

    assert (type(error), error.code, secure.requests) == (Transient, "tls_failed", [])
    assert "certificate" in error.message


async def test_plain_http_where_tls_was_expected_is_a_tls_failure(server: Server) -> None:
    server.then = _reset
    error = await _error(server.url().replace("http:", "https:"), Expected(), Limits(10, 20, 0.3))

    assert isinstance(error, Transient)
    assert error.code in {"tls_failed", "connection_failed"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "x",
        "/attachments/1",
        "https://",
        "https:///x",
        "http://[::1",
        "http://h:x/",
        "\ud800",
        "http://\ud800",
    ],
)
async def test_what_is_no_url_is_named_so(url: str) -> None:
    error = await _error(url)

    assert (type(error), error.code) == (Permanent, "bad_url")


@pytest.mark.parametrize(
    "url", ["https://evil.example/x?token=hidden", "https://a:hidden@localhost/", "ftp://localhost/"]
)
async def test_an_address_elsewhere_is_refused(url: str) -> None:
    error = await _error(url)

    assert (type(error), error.code) == (Permanent, "address_refused")
    assert "hidden" not in error.message


async def test_a_name_that_leads_to_a_private_address_is_refused(server: Server) -> None:
    egress = Egress(("localhost",))
    async with open_session(egress) as session:
        error = await _error("https://localhost/?token=hidden", session=session, egress=egress)

    assert (type(error), error.code, server.requests) == (Permanent, "address_refused", [])
    assert "localhost" in error.message
    assert "hidden" not in error.message


async def test_a_refused_connection_may_be_better_later(server: Server, unused_port: int) -> None:
    server.answers["*"] = _redirect(f"http://127.0.0.1:{unused_port}/x?token=hidden")

    error = await _error(server.url())

    assert (type(error), error.code) == (Transient, "connection_failed")
    assert "hidden" not in error.message


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'a' * 64}.invalid", "a..invalid"])
async def test_a_name_that_does_not_resolve_may_be_better_later(host: str) -> None:
    error = await _error(f"http://{host}/x?token=hidden")

    assert error.code in ({"dns_failed"} if ".." not in host else {"address_refused"})
    assert "hidden" not in error.message


async def test_too_large_is_known_before_the_first_byte(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"
    server.then = _wait_for_ever

    error = await _error(server.url())

    assert (type(error), error.code) == (Permanent, "too_large")


async def test_exactly_the_limit_is_not_too_large(server: Server) -> None:
    server.answers["*"] = _ok(bytes(1000))

    assert len(await _fetch(server.url(), limits=Limits(1000, 20, 20))) == 1000


async def test_an_endless_file_ends_at_the_limit(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.then = _send_for_ever(b"1000\r\n" + bytes(0x1000) + b"\r\n")

    error = await _error(server.url())

    assert (type(error), error.code) == (Permanent, "too_large")
    await asyncio.wait_for(server.closed.wait(), 20)


async def test_a_byte_now_and_then_does_not_outlast_the_total(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    server.then = _send_for_ever(b"x", pause=0.05)

    error = await _error(server.url(), limits=Limits(1_000_000, 0.4, 20))

    assert (type(error), error.code) == (Transient, "download_timeout")


async def test_the_total_covers_headers_that_drip(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nX: "
    server.then = _send_for_ever(b"x", pause=0.05)

    error = await _error(server.url(), limits=Limits(1_000_000, 0.4, 20))

    assert (type(error), error.code) == (Transient, "download_timeout")


async def test_the_total_covers_redirects(server: Server) -> None:
    server.answers["*"] = _redirect("/file")

    async def later(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.6)
        writer.write(_redirect("/file"))

    server.answers["*"] = b""
    server.then = later

    error = await _error(server.url(), limits=Limits(1_000_000, 1.5, 20))

    assert (type(error), error.code) == (Transient, "download_timeout")
    assert len(server.requests) > 1


async def test_the_total_covers_a_server_that_is_always_ready(server: Server) -> None:
    server.answers["*"] = _ok(bytes(900_000))

    async with _open(server.url(), limits=Limits(1_000_000, 1, 20)) as chunks:
        await anext(chunks)
        await asyncio.sleep(1.1)
        with pytest.raises(Transient) as failed:
            await anext(chunks)

    assert failed.value.code == "download_timeout"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc"])
async def test_a_server_that_falls_silent_stalls(server: Server, sent: bytes) -> None:
    server.answers["*"] = sent
    server.then = _wait_for_ever

    error = await _error(server.url(), limits=Limits(1_000_000, 20, 0.2))

    assert (type(error), error.code) == (Transient, "download_stalled")
    await asyncio.wait_for(server.closed.wait(), 20)


async def test_a_reader_that_takes_its_time_is_no_stall(server: Server) -> None:
    server.answers["*"] = _ok(bytes(900_000))

    async with _open(server.url(), limits=Limits(1_000_000, 20, 1)) as chunks:
        size = len(await anext(chunks))
        await asyncio.sleep(1.2)
        async for chunk in chunks:
            size += len(chunk)

    assert size == 900_000


@pytest.mark.parametrize("cancelled_in", ["headers", "body"])
async def test_a_cancellation_from_outside_stays_one(server: Server, cancelled_in: str) -> None:
    server.answers["*"] = (
        b"" if cancelled_in == "headers" else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    )
    server.then = _wait_for_ever
    task = asyncio.create_task(_fetch(server.url()))
    await _until(lambda: bool(server.requests))

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.closed.wait(), 20)


async def test_what_the_reader_raises_is_not_taken_for_the_servers(server: Server) -> None:
    server.answers["*"] = _ok(bytes(900_000))

    error = OSError("disk full")
    with pytest.raises(OSError, match="disk full") as failed:
        async with _open(server.url()):
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
async def test_a_file_that_breaks_off_is_not_taken_for_whole(server: Server, sent: bytes, end: str) -> None:
    server.answers["*"] = sent
    server.then = _reset if end == "reset" else _close

    error = await _error(server.url())

    assert (type(error), error.code) == (Transient, "connection_lost")


async def test_without_a_length_a_short_file_has_broken_off(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 99
    server.then = _close

    error = await _error(server.url(), Expected("a.bin", None, 100))

    assert (type(error), error.code) == (Transient, "connection_lost")


@pytest.mark.parametrize("size", [99, 101])
async def test_another_size_than_announced_is_another_file(server: Server, size: int) -> None:
    server.answers["*"] = _ok(b"x" * size)

    error = await _error(server.url(), Expected("a.bin", None, 100))

    assert (type(error), error.code) == (Permanent, "size_mismatch")


async def test_more_bytes_than_the_length_says_are_a_bad_response(server: Server) -> None:
    server.answers["*"] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdefgh"
    server.then = _close

    assert (await _error(server.url())).code == "bad_response"


async def test_a_transfer_coding_that_nobody_asked_for_is_refused(server: Server) -> None:
    server.answers["*"] = _ok(gzip.compress(bytes(1000)), "Transfer-Encoding: gzip")
    server.then = _close

    assert (await _error(server.url())).code in {"unexpected_encoding", "bad_response"}


@pytest.mark.parametrize(
    "coding", ["gzip", "x-gzip", "GZIP", "identity, gzip", "deflate", "br", "zstd", "br, gzip"]
)
async def test_a_content_coding_is_undone_though_nobody_asked_for_it(server: Server, coding: str) -> None:
    content = b"%PDF-1.7" + random.Random(1).randbytes(300_000) + bytes(500_000)
    server.answers["*"] = _ok(packed(content, coding), f"Content-Encoding: {coding}")

    assert await _fetch(server.url(), Expected("a.pdf", None, len(content))) == content
    assert await _fetch(server.url(), Expected("a.pdf")) == content


@pytest.mark.parametrize(
    "coding", ["aws-chunked", "UTF-8", "none", "binary", "", "identity", "8bit, aws-chunked"]
)
async def test_a_word_that_is_no_coding_changes_nothing(server: Server, coding: str) -> None:
    server.answers["*"] = _ok(b"%PDF-1.7 test", f"Content-Encoding: {coding}")

    assert await _fetch(server.url(), Expected("a.pdf", None, 13)) == b"%PDF-1.7 test"
    assert await _fetch(server.url(), Expected("a.pdf")) == b"%PDF-1.7 test"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_bytes_that_are_not_compressed_stay_as_they_are(server: Server, coding: str) -> None:
    server.answers["*"] = _ok(b"%PDF-1.7 test", f"Content-Encoding: {coding}")

    assert await _fetch(server.url()) == b"%PDF-1.7 test"


async def test_a_compressed_file_stays_compressed(server: Server) -> None:
    """Servers label a .gz file with the coding that it has by itself: by name or by its announced size it is known."""
    content = gzip.compress(b"a,b,c")
    server.answers["*"] = _ok(content, "Content-Encoding: gzip")

    assert await _fetch(server.url(), Expected("table.csv.gz")) == content
    assert await _fetch(server.url(), Expected("table", None, len(content))) == content


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_small_answer_that_becomes_large_is_refused(server: Server, coding: str) -> None:
    server.answers["*"] = _ok(packed(bytes(50_000_000), coding), f"Content-Encoding: {coding}")

    error = await _error(server.url())

    assert (type(error), error.code) == (Permanent, "decoded_too_large")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_a_compressed_file_that_breaks_off_is_not_whole(server: Server, coding: str) -> None:
    whole = packed(random.Random(1).randbytes(100_000), coding)
    server.answers["*"] = _ok(whole[: len(whole) // 2], f"Content-Encoding: {coding}")

    error = await _error(server.url())

    assert (type(error), error.code) == (Transient, "bad_encoding")


@pytest.mark.parametrize("coding", ["compress", "gzip, gzip, gzip"])
async def test_a_coding_that_is_not_undone_is_refused(server: Server, coding: str) -> None:
    server.answers["*"] = _ok(b"%PDF-1.7 test", f"Content-Encoding: {coding}")

    error = await _error(server.url(), Expected("a.pdf", None, 13_000))

    assert (type(error), error.code) == (Permanent, "unexpected_encoding")


def packed(content: bytes, coding: str) -> bytes:
    compress: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "x-gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": lambda data: bytes(brotli.compress(data, quality=1)),
        "zstd": zstd.compress,
        "identity": lambda data: data,
    }
    for each in coding.lower().split(", "):
        content = compress[each](content)
    return content


async def test_a_bomb_is_never_unpacked(server: Server) -> None:
    content = gzip.compress(bytes(50_000_000))
    server.answers["*"] = _ok(content, "Content-Encoding: identity")

    assert await _fetch(server.url()) == content


@pytest.mark.parametrize(
    "expected",
    [
        Expected("invoice.pdf", "application/pdf", 1000),
        Expected("invoice.pdf"),
        Expected(None, "application/pdf"),
        Expected("notes.txt", "text/plain"),
        Expected(),
    ],
)
async def test_a_sign_in_page_is_not_the_file(server: Server, expected: Expected) -> None:
    server.answers["*"] = _ok(PAGE, "Content-Type: text/html; charset=utf-8")

    error = await _error(server.url("/attachments/token/x/?name=invoice.pdf"), expected)

    assert (type(error), error.code) == (Permanent, "sign_in_page")


@pytest.mark.parametrize(
    "location",
    [
        "/access/unauthenticated?return_to=x",
        "/auth/v2/login/signin",
        "/auth/v3/signin",
        "/hc/en-us/signin?x=1",
        "/login",
    ],
)
async def test_a_redirect_to_the_sign_in_is_not_followed(server: Server, location: str) -> None:
    server.answers["*"] = _redirect(location)

    error = await _error(server.url("/attachments/token/x/"), Expected("page.html", "text/html"))

    assert (type(error), error.code, len(server.requests)) == (Permanent, "sign_in_page", 1)


async def test_the_cdn_may_call_a_file_login(server: Server, other: Server) -> None:
    server.answers["*"] = _redirect(other.url("/login"))
    other.answers["/login"] = _ok(b"content")

    assert await _fetch(server.url("/attachments/token/x/")) == b"content"


@pytest.mark.parametrize(
    ("name", "content", "headers"),
    [
        (
            "Kontoauszug.xls",
            b'<html xmlns:x="urn:schemas-microsoft-com:office:excel"><table></table></html>',
            "text/html",
        ),
        ("report.asp", b"<html><body>Login figures</body></html>", "text/html"),
        ("invoice.xml", b"<Invoice><head>1</head></Invoice>", ""),
        ("invoice.xml", b"<?xml version='1.0'?><Invoice/>", ""),
        ("invoice.pdf", PAGE, "text/html"),
    ],
)
async def test_what_the_cdn_sends_is_the_file_whatever_it_looks_like(
    server: Server, other: Server, name: str, content: bytes, headers: str
) -> None:
    server.answers["*"] = _redirect(other.url("/f?token=x"))
    other.answers["*"] = _ok(content, *([f"Content-Type: {headers}"] if headers else []))

    assert (
        await _fetch(server.url("/attachments/token/x/"), Expected(name), access=access_of(server)) == content
    )


async def test_the_account_itself_may_send_pages_that_are_files(server: Server) -> None:
    office = b'<html xmlns:x="urn:schemas-microsoft-com:office:excel"><table></table></html>'
    server.answers["/attachments/token/a/"] = _ok(office, "Content-Type: text/html")
    server.answers["/attachments/token/b/"] = _ok(b"<html><p>Offer</p></html>", "Content-Type: text/html")
    server.answers["/attachments/token/c/"] = _ok(b"<?xml version='1.0'?><Invoice/>")

    for path, name in (("a", "account.xls"), ("b", "offer.html"), ("c", "invoice.xml")):
        assert await _fetch(server.url(f"/attachments/token/{path}/"), Expected(name)) != b""
    assert (await _error(server.url("/attachments/token/b/"), Expected("offer.pdf"))).code == "sign_in_page"


@pytest.mark.parametrize("head", [b"<!---->", b"<?xml?>", b"<!--", b"<link>", b" ", b"<p>"])
async def test_no_page_takes_long_to_judge(server: Server, head: bytes) -> None:
    """The time limit of a test is shorter than what comments took before an end that is none."""
    server.answers["*"] = _ok(head * 2000 + b"x", "Content-Type: text/html")

    assert await _fetch(server.url("/attachments/token/x/"), Expected("a.html")) != b""


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b'<div class="login"><form action="/access/login"><input type="password">', "text/html"),
        (b'<link rel="icon"><!DOCTYPE html><title>Sign in</title>', "text/html"),
        ("<!DOCTYPE html><title>Sign in</title>".encode("utf-16"), "text/html"),
        (b"<html>schemas-microsoft-com:office", "text/html"),
        (b'{"error":"Couldn\'t authenticate you"}', "application/json"),
        (b"Sign in", "text/plain"),
    ],
)
async def test_whatever_the_account_says_instead_of_sending_an_invoice_is_no_invoice(
    server: Server, content: bytes, content_type: str
) -> None:
    server.answers["*"] = _ok(content, f"Content-Type: {content_type}")

    error = await _error(server.url("/attachments/token/x/"), Expected("invoice.pdf", "application/pdf"))

    assert error.code == "sign_in_page"


async def test_nothing_for_an_answer_is_no_file_unless_it_was_announced_or_may_be(server: Server) -> None:
    server.answers["*"] = _ok(b"")

    error = await _error(server.url(), Expected("a.txt", may_be_empty=False))

    assert (type(error), error.code) == (Transient, "empty_answer")
    assert await _fetch(server.url(), Expected("a.txt", None, 0, may_be_empty=False)) == b""
    assert await _fetch(server.url(), Expected("a.txt")) == b""


async def test_a_file_of_the_name_of_a_removed_one_is_a_file_unless_it_is_empty(server: Server) -> None:
    server.answers["/full"] = _ok(b"names", 'Content-Disposition: attachment; filename="redacted.txt"')
    server.answers["/empty"] = _ok(b"", 'Content-Disposition: attachment; filename="redacted.txt"')

    assert await _fetch(server.url("/full")) == b"names"
    assert await _fetch(server.url("/full"), Expected("Redacted.txt", None, 5)) == b"names"
    for expected in (Expected(), Expected("redacted.txt", None, 5), Expected("invoice.pdf")):
        assert (await _error(server.url("/empty"), expected)).code == "redacted"
    assert (await _error(server.url("/full"), Expected("invoice.pdf"))).code == "redacted"


@pytest.mark.parametrize(
    ("expected", "path", "headers"),
    [
        (Expected("page.html", "text/html", len(PAGE)), "/file", ()),
        (Expected("PAGE.HTM"), "/file", ()),
        (Expected(None, "application/xhtml+xml"), "/file", ()),
        (Expected(), "/file/?name=page.html", ()),
        (Expected(), "/file", ('Content-Disposition: attachment; filename="page.html"',)),
    ],
)
async def test_a_page_that_was_attached_passes(
    server: Server, expected: Expected, path: str, headers: tuple[str, ...]
) -> None:
    server.answers["*"] = _ok(PAGE, "Content-Type: text/html", *headers)

    assert await _fetch(server.url(path), expected) == PAGE


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"%PDF-1.4", "text/html"),
        (b"<html>report</html>", "application/vnd.ms-excel"),
        (b"<svg/>", "image/svg+xml"),
    ],
)
async def test_what_only_resembles_a_page_passes(server: Server, content: bytes, content_type: str) -> None:
    server.answers["*"] = _ok(content, f"Content-Type: {content_type}")

    assert await _fetch(server.url(), Expected("report.xls")) == content


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/file", ('Content-Disposition: inline; filename="redacted.txt"',)),
        ("/file", ("Content-Disposition: attachment; filename=Redacted.TXT; x=y",)),
        ("/file", ("Content-Disposition: attachment; filename*=UTF-8''redacted%2Etxt",)),
        ("/file/?name=redacted.txt", ()),
        ("/token/redacted.txt?x=y", ()),
    ],
)
async def test_a_redacted_file_is_named_so(server: Server, path: str, headers: tuple[str, ...]) -> None:
    server.answers["/file"] = _redirect(path) if path != "/file" else _ok(b"", *headers)
    server.answers[path] = _ok(b"", *headers)

    error = await _error(server.url(), Expected("invoice.pdf", "application/pdf", 1000))

    assert (type(error), error.code) == (Permanent, "redacted")


async def test_a_file_that_is_called_redacted_passes(server: Server) -> None:
    server.answers["*"] = _ok(b"x", 'Content-Disposition: attachment; filename="redacted.txt"')

    assert await _fetch(server.url(), Expected("Redacted.txt")) == b"x"


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
async def test_what_is_not_http_is_a_bad_response(server: Server, sent: bytes) -> None:
    server.answers["*"] = sent
    server.then = _close

    error = await _error(server.url())

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
async def test_whatever_else_a_server_sends_the_error_is_ours(server: Server, sent: bytes) -> None:
    server.answers["*"] = sent
    server.then = _close

    error = await _error(server.url("/file?token=hidden"), limits=Limits(1_000_000, 5, 5))

    assert isinstance(error, Transient | Permanent)
    assert "hidden" not in error.message


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with _listen(Server()) as listening:
        yield listening


@pytest.fixture
async def other() -> AsyncIterator[Server]:
    async with _listen(Server()) as listening:
        yield listening


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@asynccontextmanager
async def _listen(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def _open(
    url: str,
    expected: Expected = NOTHING,
    limits: Limits = LIMITS,
    access: Access = NOBODY,
    session: aiohttp.ClientSession | None = None,
    egress: Egress = EGRESS,
) -> AsyncIterator[AsyncIterator[bytes]]:
    async with AsyncExitStack() as stack:
        if session is None:
            session = await stack.enter_async_context(open_session(egress))
        file = await stack.enter_async_context(
            download(session, egress, url, expected=expected, limits=limits, access=access)
        )
        yield file.chunks


async def _fetch(
    url: str,
    expected: Expected = NOTHING,
    limits: Limits = LIMITS,
    access: Access = NOBODY,
    session: aiohttp.ClientSession | None = None,
    egress: Egress = EGRESS,
) -> bytes:
    async with _open(url, expected, limits, access, session, egress) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def _error(
    url: str,
    expected: Expected = NOTHING,
    limits: Limits = LIMITS,
    session: aiohttp.ClientSession | None = None,
    egress: Egress = EGRESS,
) -> HoldfastError:
    with pytest.raises(HoldfastError) as failed:
        await _fetch(url, expected, limits, session=session, egress=egress)
    return failed.value


def access_of(server: Server) -> FileAccess:
    return FileAccess(Account(URL(server.url())), FixedLogin(SECRET))


def _ok(content: bytes, *headers: str) -> bytes:
    return (
        "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(content)}", *headers, "\r\n"]).encode()
        + content
    )


def _redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n".encode()


async def _close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.05)  # so that what was sent is not discarded with the connection
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _wait_for_ever(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()
    raise ConnectionError


def _send_for_ever(data: bytes, pause: float = 0) -> Then:
    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(pause)

    return send


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
async def secure(tls: ssl.SSLContext) -> AsyncIterator[Server]:
    async with _listen(Server(scheme="https"), tls) as listening:
        yield listening
