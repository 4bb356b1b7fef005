"""Addresses, redirects and credentials of a download."""

import pytest
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient
from service.outbound.egress import Egress
from service.outbound.responses import Expected, Limits
from service.outbound.transfer import open_session
from service.zendesk.access import FileAccess
from service.zendesk.account import Account, FixedToken
from service.zendesk.login import FixedLogin
from tests.support.file_server import (
    SECRET,
    SIGNED,
    Server,
    access_of,
    fetch,
    fetch_error,
    ok,
    redirect,
    reset,
)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("absolute", [True, False])
async def test_a_redirect_is_followed_byte_for_byte(server: Server, status: int, absolute: bool) -> None:  # noqa: FBT001 a table
    server.answers["/file"] = redirect(server.url(SIGNED) if absolute else SIGNED, status)
    server.answers[SIGNED] = ok(b"content")

    assert await fetch(server.url()) == b"content"
    assert server.requests[1].startswith(f"GET {SIGNED} HTTP/1.1\r\n")


async def test_the_first_address_is_requested_byte_for_byte(server: Server) -> None:
    server.answers[SIGNED] = ok(b"content")

    assert await fetch(server.url(SIGNED)) == b"content"


async def test_bytes_that_a_request_line_forbids_are_quoted(server: Server) -> None:
    server.answers["/a%20b%C3%A9"] = ok(b"content")
    server.answers["/file"] = b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: /a b\xc3\xa9#part\r\n\r\n"

    assert await fetch(server.url()) == b"content"
    assert await fetch(server.url("/a bé")) == b"content"


async def test_only_attachments_of_the_account_see_credentials(server: Server, other: Server) -> None:
    """Neither the CDN, nor another port, host name or path sees them; a redirect back to the account does."""
    first, last = "/attachments/token/a/?name=x", "/attachments/token/b/?name=x"
    server.answers[first] = redirect(other.url("/cdn"))
    other.answers["/cdn"] = redirect(server.url("/attachments/token/c/", "localhost"))
    server.answers["/attachments/token/c/"] = redirect(server.url("/brand/logo"))
    server.answers["/brand/logo"] = redirect(server.url(last))
    server.answers[last] = ok(b"content")

    await fetch(server.url(first), access=access_of(server))

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
async def test_no_ambiguous_path_gets_credentials(server: Server, path: str) -> None:
    server.answers["*"] = ok(b"content")

    await fetch(server.url(path), access=access_of(server))

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
async def test_an_answer_of_the_api_is_never_a_file(server: Server, path: str) -> None:
    """Also without credentials: its JSON error could be stored as an invoice."""
    server.answers["*"] = ok(b"{}")

    with pytest.raises(Permanent, match="API") as refused:
        await fetch(server.url(path), access=access_of(server))

    assert (refused.value.code, server.requests) == ("address_refused", [])


async def test_further_hosts_of_the_account_get_credentials(server: Server, other: Server) -> None:
    server.answers["*"] = ok(b"content")
    account = Account(URL(other.url()), (f"127.0.0.1:{server.port}",))

    await fetch(server.url("/attachments/token/a/"), access=FileAccess(account, FixedLogin(SECRET)))

    assert SECRET in server.requests[0]


async def test_another_account_gets_no_credentials(server: Server, other: Server) -> None:
    server.answers["*"] = ok(b"content")

    await fetch(server.url("/attachments/token/a/"), access=access_of(other))

    assert SECRET not in server.requests[0]


def test_the_repr_of_credentials_is_secret() -> None:
    assert SECRET not in repr(FixedToken("api_token", SECRET))
    assert SECRET not in repr(FileAccess(Account(URL("https://acme.zendesk.com")), FixedLogin(SECRET)))


async def test_a_loop_of_redirects_ends(server: Server) -> None:
    server.answers["*"] = redirect("/file")

    error = await fetch_error(server.url())

    assert (type(error), error.code, len(server.requests)) == (Permanent, "too_many_redirects", 6)


async def test_five_redirects_are_followed(server: Server) -> None:
    server.answers = {f"/{n}": redirect(f"/{n + 1}") for n in range(5)} | {"/5": ok(b"content")}

    assert await fetch(server.url("/0")) == b"content"


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
async def test_a_redirect_to_another_host_is_refused(
    server: Server, location: str, kind: type[HoldfastError], code: str
) -> None:
    server.answers["/file"] = redirect(location)

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (kind, code)
    assert len(server.requests) == 1


async def test_a_redirect_without_a_location_is_a_bad_response(server: Server) -> None:
    server.answers["/file"] = b"HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n"

    assert (await fetch_error(server.url())).code == "bad_response"


async def test_a_redirect_does_not_lead_out_of_tls(secure: Server, server: Server, trusted: None) -> None:
    secure.answers["*"] = redirect(server.url())

    error = await fetch_error(secure.url())

    assert (type(error), error.code) == (Permanent, "address_refused")
    assert (len(secure.requests), server.requests) == (1, [])


async def test_an_untrusted_certificate_is_a_tls_failure(secure: Server) -> None:
    error = await fetch_error(secure.url())

    assert (type(error), error.code, secure.requests) == (Transient, "tls_failed", [])
    assert "certificate" in error.message


async def test_plain_http_where_tls_was_expected_is_a_tls_failure(server: Server) -> None:
    server.then = reset
    error = await fetch_error(server.url().replace("http:", "https:"), Expected(), Limits(10, 20, 0.3))

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
async def test_an_invalid_url_has_its_own_code(url: str) -> None:
    error = await fetch_error(url)

    assert (type(error), error.code) == (Permanent, "bad_url")


@pytest.mark.parametrize(
    "url", ["https://evil.example/x?token=hidden", "https://a:hidden@localhost/", "ftp://localhost/"]
)
async def test_an_address_on_another_host_is_refused(url: str) -> None:
    error = await fetch_error(url)

    assert (type(error), error.code) == (Permanent, "address_refused")
    assert "hidden" not in error.message


async def test_a_name_with_a_private_address_is_refused(server: Server) -> None:
    egress = Egress(("localhost",))
    async with open_session(egress) as session:
        error = await fetch_error("https://localhost/?token=hidden", session=session, egress=egress)

    assert (type(error), error.code, server.requests) == (Permanent, "address_refused", [])
    assert "localhost" in error.message
    assert "hidden" not in error.message


async def test_a_refused_connection_is_transient(server: Server, unused_port: int) -> None:
    server.answers["*"] = redirect(f"http://127.0.0.1:{unused_port}/x?token=hidden")

    error = await fetch_error(server.url())

    assert (type(error), error.code) == (Transient, "connection_failed")
    assert "hidden" not in error.message


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'a' * 64}.invalid", "a..invalid"])
async def test_a_name_that_does_not_resolve_is_transient(host: str) -> None:
    error = await fetch_error(f"http://{host}/x?token=hidden")

    assert error.code in ({"dns_failed"} if ".." not in host else {"address_refused"})
    assert "hidden" not in error.message
