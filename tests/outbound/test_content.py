"""Content codings, sign-in pages and redacted files of a download."""

import gzip
import random

import pytest

from service.errors import Permanent, Transient
from service.outbound.responses import Expected
from tests.support.file_server import PAGE, Server, access_of, fetch, fetch_error, ok, packed, redirect


@pytest.mark.parametrize(
    "coding", ["gzip", "x-gzip", "GZIP", "identity, gzip", "deflate", "br", "zstd", "br, gzip"]
)
async def test_an_unrequested_content_coding_is_decoded(server: Server, coding: str) -> None:
    content = b"%PDF-1.7" + random.Random(1).randbytes(300_000) + bytes(500_000)
    server.answers["*"] = ok(packed(content, coding), f"Content-Encoding: {coding}")

    assert await fetch(server.url(), Expected("a.pdf", None, len(content))) == content
    assert await fetch(server.url(), Expected("a.pdf")) == content


@pytest.mark.parametrize(
    "coding", ["aws-chunked", "UTF-8", "none", "binary", "", "identity", "8bit, aws-chunked"]
)
async def test_an_unknown_coding_changes_nothing(server: Server, coding: str) -> None:
    server.answers["*"] = ok(b"%PDF-1.7 test", f"Content-Encoding: {coding}")

    assert await fetch(server.url(), Expected("a.pdf", None, 13)) == b"%PDF-1.7 test"
    assert await fetch(server.url(), Expected("a.pdf")) == b"%PDF-1.7 test"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_uncompressed_bytes_stay_unchanged(server: Server, coding: str) -> None:
    server.answers["*"] = ok(b"%PDF-1.7 test", f"Content-Encoding: {coding}")

    assert await fetch(server.url()) == b"%PDF-1.7 test"


async def test_a_compressed_file_stays_compressed(server: Server) -> None:
    """Some servers label a .gz file as gzip-coded: its name or its announced size prevents a decoding."""
    content = gzip.compress(b"a,b,c")
    server.answers["*"] = ok(content, "Content-Encoding: gzip")

    assert await fetch(server.url(), Expected("table.csv.gz")) == content
    assert await fetch(server.url(), Expected("table", None, len(content))) == content


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_small_response_that_decodes_to_a_large_one_is_refused(server: Server, coding: str) -> None:
    server.answers["*"] = ok(packed(bytes(50_000_000), coding), f"Content-Encoding: {coding}")

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (Permanent, "decoded_too_large")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_a_truncated_compressed_file_is_an_error(server: Server, coding: str) -> None:
    whole = packed(random.Random(1).randbytes(100_000), coding)
    server.answers["*"] = ok(whole[: len(whole) // 2], f"Content-Encoding: {coding}")

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (Transient, "bad_encoding")


@pytest.mark.parametrize("coding", ["compress", "gzip, gzip, gzip"])
async def test_an_unsupported_coding_is_refused(server: Server, coding: str) -> None:
    server.answers["*"] = ok(b"%PDF-1.7 test", f"Content-Encoding: {coding}")

    error = await fetch_error(server.url(), Expected("a.pdf", None, 13_000))

    assert (type(error), error.code) == (Permanent, "unexpected_encoding")


async def test_a_decompression_bomb_is_never_unpacked(server: Server) -> None:
    content = gzip.compress(bytes(50_000_000))
    server.answers["*"] = ok(content, "Content-Encoding: identity")

    assert await fetch(server.url()) == content


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
    server.answers["*"] = ok(PAGE, "Content-Type: text/html; charset=utf-8")

    error = await fetch_error(server.url("/attachments/token/x/?name=invoice.pdf"), expected)

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
    server.answers["*"] = redirect(location)

    error = await fetch_error(server.url("/attachments/token/x/"), Expected("page.html", "text/html"))

    assert (type(error), error.code, len(server.requests)) == (Permanent, "sign_in_page", 1)


async def test_a_file_on_the_cdn_may_be_named_login(server: Server, other: Server) -> None:
    server.answers["*"] = redirect(other.url("/login"))
    other.answers["/login"] = ok(b"content")

    assert await fetch(server.url("/attachments/token/x/")) == b"content"


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
async def test_a_page_from_the_cdn_is_the_file(
    server: Server, other: Server, name: str, content: bytes, headers: str
) -> None:
    server.answers["*"] = redirect(other.url("/f?token=x"))
    other.answers["*"] = ok(content, *([f"Content-Type: {headers}"] if headers else []))

    assert (
        await fetch(server.url("/attachments/token/x/"), Expected(name), access=access_of(server)) == content
    )


async def test_the_account_itself_may_send_pages_that_are_files(server: Server) -> None:
    office = b'<html xmlns:x="urn:schemas-microsoft-com:office:excel"><table></table></html>'
    server.answers["/attachments/token/a/"] = ok(office, "Content-Type: text/html")
    server.answers["/attachments/token/b/"] = ok(b"<html><p>Offer</p></html>", "Content-Type: text/html")
    server.answers["/attachments/token/c/"] = ok(b"<?xml version='1.0'?><Invoice/>")

    for path, name in (("a", "account.xls"), ("b", "offer.html"), ("c", "invoice.xml")):
        assert await fetch(server.url(f"/attachments/token/{path}/"), Expected(name)) != b""
    assert (
        await fetch_error(server.url("/attachments/token/b/"), Expected("offer.pdf"))
    ).code == "sign_in_page"


@pytest.mark.parametrize("head", [b"<!---->", b"<?xml?>", b"<!--", b"<link>", b" ", b"<p>"])
async def test_any_page_is_checked_quickly(server: Server, head: bytes) -> None:
    """Formerly an unclosed comment took longer than the timeout of a test."""
    server.answers["*"] = ok(head * 2000 + b"x", "Content-Type: text/html")

    assert await fetch(server.url("/attachments/token/x/"), Expected("a.html")) != b""


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
async def test_no_other_answer_of_the_account_is_stored_as_an_invoice(
    server: Server, content: bytes, content_type: str
) -> None:
    server.answers["*"] = ok(content, f"Content-Type: {content_type}")

    error = await fetch_error(server.url("/attachments/token/x/"), Expected("invoice.pdf", "application/pdf"))

    assert error.code == "sign_in_page"


async def test_an_empty_response_is_a_file_only_if_announced_or_allowed(server: Server) -> None:
    server.answers["*"] = ok(b"")

    error = await fetch_error(server.url(), Expected("a.txt", may_be_empty=False))

    assert (type(error), error.code) == (Transient, "empty_answer")
    assert await fetch(server.url(), Expected("a.txt", None, 0, may_be_empty=False)) == b""
    assert await fetch(server.url(), Expected("a.txt")) == b""


async def test_a_nonempty_file_named_redacted_is_a_file(server: Server) -> None:
    server.answers["/full"] = ok(b"names", 'Content-Disposition: attachment; filename="redacted.txt"')
    server.answers["/empty"] = ok(b"", 'Content-Disposition: attachment; filename="redacted.txt"')

    assert await fetch(server.url("/full")) == b"names"
    assert await fetch(server.url("/full"), Expected("Redacted.txt", None, 5)) == b"names"
    for expected in (Expected(), Expected("redacted.txt", None, 5), Expected("invoice.pdf")):
        assert (await fetch_error(server.url("/empty"), expected)).code == "redacted"
    assert (await fetch_error(server.url("/full"), Expected("invoice.pdf"))).code == "redacted"


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
async def test_an_attached_page_passes(
    server: Server, expected: Expected, path: str, headers: tuple[str, ...]
) -> None:
    server.answers["*"] = ok(PAGE, "Content-Type: text/html", *headers)

    assert await fetch(server.url(path), expected) == PAGE


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"%PDF-1.4", "text/html"),
        (b"<html>report</html>", "application/vnd.ms-excel"),
        (b"<svg/>", "image/svg+xml"),
    ],
)
async def test_a_file_that_resembles_a_page_passes(server: Server, content: bytes, content_type: str) -> None:
    server.answers["*"] = ok(content, f"Content-Type: {content_type}")

    assert await fetch(server.url(), Expected("report.xls")) == content


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
async def test_a_redacted_file_has_its_own_code(server: Server, path: str, headers: tuple[str, ...]) -> None:
    server.answers["/file"] = redirect(path) if path != "/file" else ok(b"", *headers)
    server.answers[path] = ok(b"", *headers)

    error = await fetch_error(server.url(), Expected("invoice.pdf", "application/pdf", 1000))

    assert (type(error), error.code) == (Permanent, "redacted")


async def test_an_announced_file_named_redacted_passes(server: Server) -> None:
    server.answers["*"] = ok(b"x", 'Content-Disposition: attachment; filename="redacted.txt"')

    assert await fetch(server.url(), Expected("Redacted.txt")) == b"x"
