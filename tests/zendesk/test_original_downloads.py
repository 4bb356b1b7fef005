"""The download of an original: from one address only, without redirects, and remembered where the account refuses it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import asyncpg
import pytest
from pydantic import SecretStr
from yarl import URL

from service.config.settings import Settings
from service.errors import HoldfastError, Permanent, Transient
from service.local.zendesk.stand_in import Zendesk
from service.outbound.responses import Limits
from service.resources import Resources, open_resources
from service.zendesk.access import OriginalAccess
from service.zendesk.account import Account
from service.zendesk.login import FixedLogin
from tests.support.file_server import SECRET, Server, listen, ok, redirect

EML = b"Message-ID: <1@customer.example>\r\nSubject: Invoice\r\n\r\nHello\r\n"
PAGE = b"<!DOCTYPE html><html><title>Sign in to Zendesk</title>"
LIMITS = Limits(max_bytes=10_000, seconds=20, stall_seconds=20)
PATH = "/audits/9002/email.eml?ticket_id=7"
RFC822 = "Content-Type: message/rfc822"
ACCOUNT = URL("https://acme.zendesk.com")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with listen(Server()) as server:
        yield server


@pytest.fixture
async def account(settings: Settings, server: Server, res: Resources) -> AsyncIterator[Resources]:
    """The resources of a process whose account is the raw server."""
    about = {
        "zendesk_url": server.url(""),
        "zendesk_oauth_client_id": None,
        "zendesk_oauth_client_secret": None,
        "zendesk_oauth_token": SecretStr("stand-in-oauth-token"),
    }
    async with open_resources(settings.model_copy(update=about)) as resources:
        yield resources


async def fetch(
    res: Resources, audit_id: str = "9002", ticket_id: str = "7", limits: Limits = LIMITS
) -> bytes:
    async with res.zendesk.original(audit_id, ticket_id, limits) as file:
        return b"".join([chunk async for chunk in file])


async def refusal(res: Resources, audit_id: str = "9002", ticket_id: str = "7") -> HoldfastError:
    with pytest.raises(HoldfastError) as refused:
        await fetch(res, audit_id, ticket_id)
    return refused.value


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "\r\n"]
    return "\r\n".join(head).encode() + body


async def test_an_original_comes_from_its_one_address_with_credentials(
    account: Resources, server: Server
) -> None:
    server.answers[PATH] = ok(EML, RFC822)

    assert await fetch(account) == EML
    [request] = server.requests
    assert request.startswith(f"GET {PATH} HTTP/1.1\r\n")
    assert "Authorization: Bearer stand-in-oauth-token" in request


async def test_an_account_that_gives_originals_gives_them_to_access_tokens(
    res: Resources, zendesk: Zendesk
) -> None:
    zendesk.state.gives_originals = True
    zendesk.add_email(7, original=EML)
    [comment] = zendesk.state.comments["7"]

    assert await fetch(res, str(comment["audit_id"])) == EML


async def test_an_account_that_refuses_originals_is_not_asked_again(res: Resources, zendesk: Zendesk) -> None:
    zendesk.add_email(7)
    errors = [await refusal(res) for _ in range(3)]

    assert [(type(error), error.code) for error in errors] == [(Permanent, "original_not_available")] * 3
    assert zendesk.state.calls["email.eml"] == 1
    assert zendesk.state.token_requests == 1


async def test_a_token_that_has_ended_is_replaced_and_says_nothing_of_the_account(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.gives_originals = True
    zendesk.add_email(7, original=EML)
    [comment] = zendesk.state.comments["7"]
    await fetch(res, str(comment["audit_id"]))
    await res.zendesk.get("/api/v2/tickets/7/comments.json")
    zendesk.state.access_tokens.clear()

    assert await fetch(res, str(comment["audit_id"])) == EML
    assert not res.zendesk.refuses_originals
    assert await database.fetchval("SELECT no_originals_at FROM api_budgets") is None


@pytest.mark.parametrize(
    "answered",
    [
        redirect("/auth/v2/login/signin"),
        answer(401, b'{"error": "invalid_token"}', "Content-Type: application/json"),
        ok(PAGE, "Content-Type: text/html; charset=utf-8"),
    ],
    ids=["redirect", "401", "page"],
)
async def test_a_refusal_is_the_accounts_once_a_new_token_gets_it_too(
    settings: Settings, server: Server, answered: bytes
) -> None:
    token = b'{"access_token": "t", "expires_in": 7200}'
    server.answers["/oauth/tokens"] = answer(
        200, token, "Content-Type: application/json", "Connection: close"
    )
    server.answers["/api/v2/users/me.json"] = ok(b"{}", "Content-Type: application/json")
    server.answers[PATH] = ok(EML, RFC822)
    async with open_resources(settings.model_copy(update={"zendesk_url": server.url("")})) as account:
        await fetch(account)  # it gives originals
        await account.zendesk.get("/api/v2/users/me.json")  # and accepts the token
        server.answers[PATH] = answered
        errors = [await refusal(account), await refusal(account)]

    assert [error.code for error in errors] == ["original_not_available"] * 2
    assert [request.split(" ")[1] for request in server.requests if "/api/" not in request] == [
        *("/oauth/tokens", PATH),
        PATH,
        *("/oauth/tokens", PATH),
    ]


async def test_a_404_of_a_young_email_is_not_yet_and_says_nothing_of_the_account(
    account: Resources, server: Server, database: asyncpg.Connection
) -> None:
    server.answers["*"] = answer(404, b"Not found")
    errors = []
    for _ in range(2):
        with pytest.raises(Transient) as refused:
            async with account.zendesk.original("9002", "7", LIMITS, early=timedelta(minutes=15)):
                pass
        errors.append((refused.value.code, refused.value.retry_after))

    assert errors == [("not_found", timedelta(minutes=15))] * 2
    assert await database.fetchval("SELECT no_originals_at FROM api_budgets") is None


@pytest.mark.parametrize(
    "answered",
    [
        redirect("/auth/v2/login/signin"),
        redirect(PATH),
        redirect(PATH, 307),
        redirect("https://elsewhere.example/email.eml", 301),
        redirect("http://[broken", 303),
        answer(300),
        answer(304),
        answer(401, b'{"error": "invalid_token"}', "Content-Type: application/json"),
        answer(406),
        ok(PAGE, "Content-Type: text/html; charset=utf-8"),
        ok(b"<b>no</b>", "Content-Type: text/html"),
        ok(b'{"error": "no"}', "Content-Type: application/json"),
    ],
    ids=lambda answered: answered.partition(b" X")[0].decode()[-3:],
)
async def test_a_refusal_that_concerns_the_account_is_remembered_for_a_day(
    account: Resources, server: Server, database: asyncpg.Connection, answered: bytes
) -> None:
    """Even if originals were given before: the credentials may be others now."""
    server.answers["*"] = answered
    await insert_original(database)
    errors = [await refusal(account), await refusal(account)]
    asked = len(server.requests)
    await database.execute("UPDATE api_budgets SET no_originals_at = no_originals_at - interval '1 day'")
    server.answers["*"] = answer(500)
    await learn(account)
    later = await refusal(account)

    assert [(type(error), error.code) for error in errors] == [(Permanent, "original_not_available")] * 2
    assert asked == 1
    assert (type(later), later.code) == (Transient, "server_error")


@pytest.mark.parametrize("status", [403, 404, 410])
@pytest.mark.parametrize("given_before", ["none", "some"])
async def test_a_refusal_that_may_concern_one_email_is_remembered_if_none_was_ever_given(
    account: Resources, server: Server, database: asyncpg.Connection, status: int, given_before: str
) -> None:
    server.answers["*"] = answer(status, b"Not found")
    if given_before == "some":
        await insert_original(database)
    errors = [await refusal(account), await refusal(account)]

    assert {(type(error), error.code) for error in errors} == {(Permanent, "original_not_available")}
    assert len(server.requests) == (1 if given_before == "none" else 2)


@pytest.mark.parametrize(
    ("answered", "kind", "code"),
    [
        (answer(429, b"", "Retry-After: 300"), Transient, "rate_limited"),
        (answer(503), Transient, "server_error"),
        (answer(202), Transient, "not_ready"),
        (ok(b"x" * 10_001, RFC822), Permanent, "too_large"),
        (b"SMTP ready\r\n\r\n", Transient, "bad_response"),
    ],
)
async def test_other_errors_are_not_remembered(
    account: Resources,
    server: Server,
    database: asyncpg.Connection,
    answered: bytes,
    kind: type[HoldfastError],
    code: str,
) -> None:
    server.answers["*"] = answered
    error = await refusal(account)

    assert (type(error), error.code) == (kind, code)
    assert await database.fetchval("SELECT no_originals_at FROM api_budgets") is None


async def test_a_rate_limit_at_an_original_pauses_all_calls(account: Resources, server: Server) -> None:
    server.answers["*"] = answer(429, b"", "Retry-After: 300")
    await refusal(account)
    with pytest.raises(Transient) as paused:
        await account.zendesk.get("/api/v2/users/me.json")

    assert paused.value.code == "rate_limited"
    assert len(server.requests) == 1


async def test_an_original_without_an_announced_length_is_bounded(account: Resources, server: Server) -> None:
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{RFC822}\r\n\r\n".encode()
    server.answers["*"] = head + 10 * chunk + b"0\r\n\r\n"
    error = await refusal(account)

    assert (type(error), error.code) == (Permanent, "too_large")


@pytest.mark.parametrize("wrong", ["", "x", "1/../../api/v2/users/me.json?", "1%2f", "٣", "1" * 31, "-1"])
@pytest.mark.parametrize("place", ["audit", "ticket"])
async def test_an_id_that_is_no_number_is_not_asked_for(
    account: Resources, server: Server, wrong: str, place: str
) -> None:
    error = await refusal(account, *((wrong, "7") if place == "audit" else ("9002", wrong)))

    assert (type(error), error.code) == (Permanent, "original_not_available")
    assert server.requests == []


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.with_scheme("http"),
        lambda url: url.with_host("acme.zendesk.com.evil.example"),
        lambda url: url.with_host("brand.zendesk.com"),
        lambda url: url.with_port(8443),
        lambda url: url.with_path("/audits/9003/email.eml").with_query(url.query),
        lambda url: url.with_path("/audits/9002/email.html").with_query(url.query),
        lambda url: url.with_path("/api/v2/users/me.json"),
        lambda url: url.with_path("/attachments/token/abc/"),
        lambda url: url.with_query(ticket_id="8"),
        lambda url: url.update_query(more="1"),
    ],
)
async def test_no_other_address_sees_the_credentials(change: Callable[[URL], URL]) -> None:
    url = ACCOUNT.with_path("/audits/9002/email.eml").with_query(ticket_id="7")
    account = Account(ACCOUNT, ("brand.zendesk.com",))
    access = OriginalAccess(account, FixedLogin(SECRET), address=url)

    assert await access.header(url) == SECRET
    with pytest.raises(Permanent) as refused:
        await access.header(change(url))
    assert refused.value.code == "original_not_available"


async def test_an_account_that_gives_no_originals_is_asked_once_by_many_at_once(
    res: Resources, zendesk: Zendesk
) -> None:
    errors = await asyncio.gather(*(refusal(res, str(audit_id)) for audit_id in range(10)))

    assert {error.code for error in errors} == {"original_not_available"}
    assert zendesk.state.calls["email.eml"] == 1


async def test_an_account_that_gives_originals_gives_many_at_once(account: Resources, server: Server) -> None:
    server.answers[PATH] = ok(EML, RFC822)
    await fetch(account)

    async with account.zendesk.original("9002", "7", LIMITS):  # this download goes on
        assert await fetch(account) == EML


async def test_an_original_counts_in_the_budget(
    account: Resources, server: Server, database: asyncpg.Connection
) -> None:
    server.answers["*"] = ok(EML, RFC822)
    await fetch(account)
    used = await database.fetchval("SELECT used FROM api_budgets")
    await database.execute("UPDATE api_budgets SET used = 1000, calls_per_minute = 200")
    error = await refusal(account)

    assert used == 1
    assert (type(error), error.code) == (Transient, "rate_limited")
    assert len(server.requests) == 1


async def learn(res: Resources) -> None:
    """Make any call of the budget, as the look-up that precedes an original does; its answer does not matter."""
    with pytest.raises(HoldfastError):
        await res.zendesk.get("/api/v2/tickets/7/comments.json")


async def insert_original(database: asyncpg.Connection) -> None:
    """Add an e-mail whose original is stored."""
    email_id = await database.fetchval(
        "INSERT INTO incoming_emails (idempotency_key, zendesk_ticket_id) VALUES ('given', '1') RETURNING id"
    )
    await database.execute(
        'INSERT INTO messages (email_id, comment_id, direction, "to", cc, text, text_size, has_html, record_sha256,'
        " record_key, record_size, original, original_sha256, original_key, original_size)"
        " VALUES ($1, '1', 'inbound', '[]', '[]', '', 0, false, '', '', 0, 'stored', 'a', 'a', 1)",
        email_id,
    )
