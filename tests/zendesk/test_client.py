"""The client of Zendesk: access tokens, the account's rate limit, and the meaning of the API's responses."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from arq.worker import Worker
from pydantic import SecretStr
from yarl import URL

from service.alerts.credentials import find_ending as find
from service.config.settings import Settings
from service.errors import HoldfastError, Permanent, Transient
from service.local.zendesk.account import describe
from service.local.zendesk.stand_in import Fault, Zendesk
from service.outbound.egress import Egress
from service.outbound.responses import Expected, Limits
from service.resources import Resources, open_resources
from service.telemetry.metrics import ZENDESK_CALLS
from service.zendesk.account import Account, account_of
from tests.conftest import Client, eventually, serving, working
from tests.support.files import PDF


async def test_a_token_is_fetched_once_and_serves_api_and_files(
    client: Client, worker: Worker, zendesk: Zendesk
) -> None:
    for number in range(5):
        zendesk.add_comment(number, attachments=[zendesk.add_file("a.pdf", PDF + bytes([number]))])
        email_id = (await client.send({"ticket_id": number, "comment_id": ""}))["email_id"]
        email = await client.until(email_id, "completed", "failed")
        assert email["processing_status"] == "completed", email

    assert zendesk.state.token_requests == 1
    assert {header.partition(" ")[0] for header in zendesk.state.account_authorizations} == {"Bearer"}
    assert zendesk.state.cdn_authorizations == []


async def test_a_sign_in_page_replaces_an_expired_token(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """For a file, Zendesk answers with the page and not with a 401."""
    settings = settings.model_copy(update={"max_retries": 0})
    async with serving(settings, zendesk) as client, working(settings):
        for number in range(10):
            url = zendesk.add_file("a.pdf", PDF + bytes([number]))
            email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
            email = await client.until(email_id, "completed", "failed")
            assert (email["processing_status"], email["retry_count"]) == ("completed", 0)
            zendesk.state.access_tokens.clear()

    assert zendesk.state.token_requests == 10


@pytest.mark.parametrize(
    "refused",
    [
        Fault(sign_in=True),
        Fault(status=302, headers={"Location": "/auth/v2/login/signin"}),
        Fault(status=401, body=b'{"error": "Couldn\'t authenticate you"}'),
    ],
    ids=["page", "redirect", "401"],
)
async def test_a_file_that_is_refused_to_a_valid_token_ends_no_token(
    res: Resources, zendesk: Zendesk, refused: Fault
) -> None:
    """Without this, each link to such a file in an e-mail costs all others the token that they use."""
    url = zendesk.add_file("a.pdf", PDF, faults=[refused] * 30)
    await res.zendesk.current_user()
    zendesk.state.token_faults.extend([Fault(status=429)] * 30)

    errors = [await file_refusal(res, url) for _ in range(10)]
    await res.zendesk.current_user()

    assert {type(error) for error in errors} == {Permanent}
    assert {error.code for error in errors} <= {"sign_in_page", "unauthorized"}
    assert zendesk.state.token_requests == 1


async def test_a_file_waits_where_the_api_cannot_say_whether_the_token_has_ended(
    res: Resources, zendesk: Zendesk
) -> None:
    url = zendesk.add_file("a.pdf", PDF, faults=[Fault(sign_in=True)])
    zendesk.state.rule_faults["oauth/tokens/current"] = Fault(status=503)

    error = await file_refusal(res, url)

    assert (type(error), error.code) == (Transient, "server_error")


async def test_tokens_that_end_early_fail_no_email(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    settings = settings.model_copy(update={"early_seconds": 900})
    urls = [zendesk.add_file("a.pdf", PDF + bytes([number])) for number in range(60)]
    async with serving(settings, zendesk) as client, working(settings):
        emails = []
        for url in urls:
            emails.append((await client.send(zendesk.payload(attachments=[url])))["email_id"])
            zendesk.state.access_tokens.clear()  # as when an administrator revokes them
        ends = [await client.until(email, "completed", "failed") for email in emails]

    assert {email["processing_status"] for email in ends} == {"completed"}
    assert zendesk.state.token_requests > 1


async def test_an_outage_of_the_token_endpoint_fails_no_email(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """For any number of retries: the error does not concern the e-mail."""
    settings = settings.model_copy(update={"max_retries": 0})
    zendesk.state.token_faults.extend(
        [Fault(status=503), Fault(status=429), Fault(status=200, body=b"<html>")]
    )
    async with serving(settings, zendesk) as client, working(settings):
        url = zendesk.add_file("a.pdf", PDF)
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]

        async def handed_back() -> dict[str, Any] | None:
            email = await client.email(email_id)
            return email if len(email["attempts"]) > 1 else None

        waiting = await eventually(handed_back)
        ended = await client.until(email_id, "completed", "failed")

    assert waiting["error_code"] == "token_unavailable"
    assert (ended["processing_status"], ended["retry_count"]) == ("completed", 0)


async def test_the_response_tells_the_lifetime_of_a_token(settings: Settings, zendesk: Zendesk) -> None:
    zendesk.state.token_seconds = 0.2
    async with open_resources(settings) as res:
        for _ in range(4):
            await res.zendesk.get("/api/v2/users/me.json")
            await asyncio.sleep(0.11)

    assert 2 <= zendesk.state.token_requests <= 4


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"access_token": 7}', b'{"access_token": "a\\nb"}', b"{" * 5000]
)
async def test_an_unexpected_response_is_not_a_token(
    settings: Settings, zendesk: Zendesk, body: bytes
) -> None:
    zendesk.state.token_faults.append(Fault(status=200, body=body))
    async with open_resources(settings) as res:
        error = await refusal(res)

    assert (type(error), error.code) == (Transient, "token_unavailable")


@pytest.mark.parametrize(
    ("status", "body", "code", "advice"),
    [
        (401, b'{"error": "invalid_client"}', "credentials_refused", "check ZENDESK_OAUTH_CLIENT_ID and"),
        (401, b"", "credentials_refused", "check ZENDESK_OAUTH_CLIENT_ID and"),
        (400, b'{"error": "invalid_scope"}', "credentials_refused", "allow the client the scope `read`"),
        (400, b'{"error": "unauthorized_client"}', "credentials_refused", "of the kind Confidential"),
        (404, b"<html>No help desk</html>", "token_unavailable", "check ZENDESK_SUBDOMAIN"),
        (301, b"", "token_unavailable", "check ZENDESK_SUBDOMAIN"),
        (503, b'{"error": "invalid_scope"}', "token_unavailable", "instead of giving an access token"),
    ],
)
async def test_a_refused_token_says_what_to_do(
    settings: Settings, zendesk: Zendesk, status: int, body: bytes, code: str, advice: str
) -> None:
    zendesk.state.token_faults.append(
        Fault(status=status, headers={"Location": "https://acme2.example/"}, body=body)
    )
    async with open_resources(settings) as res:
        error = await refusal(res)

    assert error.code == code
    assert advice in error.message
    assert ("CLIENT_ID" in error.message) == ("CLIENT_ID" in advice)


async def test_an_address_that_nobody_answers_at_is_named(settings: Settings) -> None:
    away = settings.model_copy(update={"zendesk_url": "http://127.0.0.1:1"})
    async with open_resources(away) as res:
        error = await refusal(res)

    assert (error.code, type(error)) == ("token_unavailable", Transient)
    assert "connection_failed at 127.0.0.1" in error.message
    assert "check ZENDESK_SUBDOMAIN" in error.message


async def test_no_error_shows_the_secret_or_the_token(settings: Settings, zendesk: Zendesk) -> None:
    secret = zendesk.state.client_secret
    echo = Fault(status=500, body=f"you sent {secret}".encode())
    zendesk.state.token_faults.append(echo)
    async with open_resources(settings) as res:
        errors = [await refusal(res)]
    wrong = settings.model_copy(update={"zendesk_oauth_client_secret": SecretStr("hunter2-hunter2-hunter2")})
    async with open_resources(wrong) as res:
        errors.append(await refusal(res))

    assert [error.code for error in errors] == ["token_unavailable", "credentials_refused"]
    shown = f"{errors}{[error.__cause__ for error in errors]}{[error.__context__ for error in errors]}"
    assert secret not in shown
    assert "hunter2" not in shown


async def test_the_rate_limit_pauses_api_calls_and_uses_up_no_retry(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    calls = 0
    settings = settings.model_copy(update={"max_retries": 0})
    for number in range(5):
        zendesk.add_comment(number, attachments=[zendesk.add_file("a.pdf", PDF)])
    zendesk.state.api_faults.append(Fault(status=429, headers={"Retry-After": "1"}, body=b"slow down"))
    async with serving(settings, zendesk) as client, working(settings):
        emails = [(await client.send({"ticket_id": n, "comment_id": ""}))["email_id"] for n in range(5)]
        ends = [await client.until(email, "completed", "failed") for email in emails]
        calls = zendesk.state.api_calls

    assert {email["processing_status"] for email in ends} == {"completed"}
    assert {email["retry_count"] for email in ends} == {0}
    assert calls <= 5 + 5, "nobody asks while the account is at its limit, but those that were under way"


async def test_the_last_calls_of_a_minute_stay_available_to_others(res: Resources, zendesk: Zendesk) -> None:
    zendesk.state.api_headers.update(
        {"X-Rate-Limit": "700", "X-Rate-Limit-Remaining": "3", "ratelimit-reset": "30"}
    )
    await res.zendesk.get("/api/v2/users/me.json")

    error = await refusal(res)

    assert isinstance(error, Transient)
    assert (error.code, error.counts, zendesk.state.api_calls) == ("rate_limited", False, 1)
    assert error.retry_after is not None
    assert 0 < error.retry_after.total_seconds() <= 30


async def test_all_processes_share_one_budget_and_waiting_for_it_fails_no_email(
    settings: Settings, zendesk: Zendesk, res: Resources, database: Any
) -> None:
    """With a budget of two calls a minute, six tickets take some minutes and no retry."""
    settings = settings.model_copy(update={"max_retries": 0, "zendesk_calls_percent": 1})
    zendesk.state.calls_per_minute = 200
    comments = [zendesk.add_email(number) for number in range(1, 7)]
    used = []
    async with serving(settings, zendesk) as client, open_resources(settings) as other, working(settings):
        await other.zendesk.get("/api/v2/users/me.json")
        bodies = ({"ticket_id": n, "comment_id": comment} for n, comment in enumerate(comments, 1))
        emails = [(await client.send(body))["email_id"] for body in bodies]
        for _ in range(2):
            used.append(await eventually(lambda: used_up(database)))
            assert (await refusal(other)).code == "rate_limited"
            calls = zendesk.state.calls.total()
            await database.execute("UPDATE api_budgets SET window_ends_at = now()")
            await eventually(partial(made_calls, zendesk, calls))
        zendesk.state.calls_per_minute = None
        await database.execute("UPDATE api_budgets SET calls_per_minute = 100000")
        ends = [await client.until(email, "completed", "failed") for email in emails]

    assert used == [2] * 2
    assert {(email["processing_status"], email["retry_count"]) for email in ends} == {("completed", 0)}


async def test_the_limit_is_learned_from_the_answers(res: Resources, zendesk: Zendesk, database: Any) -> None:
    limits = []
    for limit in (700, 2500):
        zendesk.state.calls_per_minute = limit
        await res.zendesk.get("/api/v2/users/me.json")
        limits.append(await database.fetchval("SELECT calls_per_minute FROM api_budgets"))

    assert limits == [700, 2500]


async def test_a_429_pauses_the_calls_of_other_processes(
    settings: Settings, res: Resources, zendesk: Zendesk
) -> None:
    zendesk.state.api_faults.append(Fault(status=429, headers={"Retry-After": "300"}))
    async with open_resources(settings) as other:
        errors = [await refusal(res), await refusal(other)]

    assert [error.code for error in errors] == ["rate_limited", "rate_limited"]
    assert zendesk.state.api_calls == 1
    assert isinstance(errors[1], Transient)
    assert errors[1].retry_after is not None
    assert 60 < errors[1].retry_after.total_seconds() <= 300


async def test_a_check_of_the_credentials_needs_no_budget(
    settings: Settings, zendesk: Zendesk, res: Resources, database: Any
) -> None:
    """Nor Postgres: it says whether Zendesk can be asked, and nothing else."""
    await res.zendesk.get("/api/v2/users/me.json")
    await database.execute("UPDATE api_budgets SET used = 100000, calls_per_minute = 200")
    nowhere = SecretStr("postgres://any:any@127.0.0.1:9/none?sslmode=disable")
    async with open_resources(settings.model_copy(update={"database_url": nowhere})) as away:
        users = [(await each.zendesk.current_user())["user"] for each in (res, away)]

    assert [user["id"] for user in users if isinstance(user, dict)] == [1_001, 1_001]


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/api/v2/tickets/1/comments.json", "comments"),
        ("/api/v2/tickets/1/comments", "comments"),
        ("/api/v2/tickets/show_many.json", "tickets"),
        ("/api/v2/tickets/1.json", "tickets"),
        ("/api/v2/users/me.json", "other"),
        ("/api/v2/tickets/x/comments.json", "other"),
    ],
)
async def test_calls_are_counted_by_endpoint_and_outcome(
    res: Resources, zendesk: Zendesk, path: str, endpoint: str
) -> None:
    def counted() -> tuple[float, float]:
        [family] = ZENDESK_CALLS.collect()
        of_endpoint = [each for each in family.samples if each.labels.get("endpoint") == endpoint]
        found = {each.labels["outcome"]: each.value for each in of_endpoint if each.name.endswith("_total")}
        return found.get("ok", 0), found.get("server_error", 0)

    before = counted()
    zendesk.state.api_faults.append(Fault(status=503))
    zendesk.add_email(1)
    with pytest.raises(Transient):
        await res.zendesk.get(path)
    with suppress(HoldfastError):
        await res.zendesk.get(path, {"ids": "1"})

    ok, failed = counted()
    has_answer = not path.startswith("/api/v2/tickets/x")
    assert (ok - before[0], failed - before[1]) == (int(has_answer), 1)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, Transient, "unauthorized"),
        (403, Permanent, "forbidden"),
        (404, Permanent, "not_found"),
        (500, Transient, "server_error"),
        (503, Transient, "server_error"),
        (200, Transient, "bad_response"),
    ],
)
async def test_an_error_of_the_api_has_a_kind_and_a_code(
    res: Resources, zendesk: Zendesk, status: int, kind: type[HoldfastError], code: str
) -> None:
    zendesk.state.api_faults.extend([Fault(status=status, body=b"<html>")] * 2)

    error = await refusal(res)

    assert (type(error), error.code) == (kind, code)


async def test_a_hostile_next_page_gets_no_credentials(res: Resources, zendesk: Zendesk) -> None:
    elsewhere = f"{zendesk.cdn_url}/api/v2/more"
    page = json.dumps({"comments": [], "links": {"next": elsewhere}}).encode()
    zendesk.state.api_faults.append(
        Fault(status=200, body=page, headers={"Content-Type": "application/json"})
    )

    with pytest.raises(HoldfastError):
        async for _ in res.zendesk.pages("/api/v2/tickets/1/comments.json", 5):
            pass

    assert zendesk.state.cdn_authorizations == []


async def test_the_last_page_is_the_one_that_says_so(res: Resources, zendesk: Zendesk) -> None:
    """Zendesk gives it the address of a next page all the same; that is empty, and a call."""
    path = "/api/v2/tickets/1/comments.json"
    links = {"next": f"{zendesk.url}{path}?page%5Bafter%5D=x"}
    page = json.dumps({"comments": [], "meta": {"has_more": False, "after_cursor": "x"}, "links": links})
    zendesk.state.api_faults.append(
        Fault(status=200, body=page.encode(), headers={"Content-Type": "application/json"})
    )

    found = [each async for each in res.zendesk.pages(path, 5)]

    assert found == [json.loads(page)]
    assert zendesk.state.api_calls == 1


async def test_pages_end_at_the_limit(res: Resources, zendesk: Zendesk) -> None:
    for _ in range(10):
        zendesk.add_comment(7)

    pages = [
        page async for page in res.zendesk.pages("/api/v2/tickets/7/comments.json", 3, {"page[size]": "1"})
    ]

    assert len(pages) == 3


async def test_an_answer_for_a_young_webhook_is_retried(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Beyond the limit of retries, as long as the webhook is young."""
    settings = settings.model_copy(update={"max_retries": 0, "early_seconds": 900})
    statuses = (404, 403, 202, 409, 423)
    urls = [
        zendesk.add_file("a.pdf", PDF + bytes([n]), faults=[Fault(status=s)] * 2)
        for n, s in enumerate(statuses)
    ]
    urls.append(zendesk.add_file("b.pdf", PDF + b"b", faults=[Fault(status=401)] * 4))
    urls.append(zendesk.add_file("c.pdf", PDF + b"c", faults=[Fault(status=200), Fault(sign_in=True)]))
    body = zendesk.payload(attachments=urls)
    for attachment in body["attachments"]:
        del attachment["size"]
    zendesk.state.api_faults.extend([Fault(status=404)] * 2)
    zendesk.add_comment(78, attachments=[zendesk.add_file("d.pdf", PDF + b"d")])
    async with serving(settings, zendesk) as client, working(settings):
        emails = [
            (await client.send(each))["email_id"] for each in (body, {"ticket_id": 78, "comment_id": ""})
        ]
        ends = [await client.until(email, "completed", "failed") for email in emails]

    assert [email["processing_status"] for email in ends] == ["completed", "completed"]
    assert {file["size"] for file in ends[0]["attachments"]} == {len(PDF) + 1}


async def test_an_answer_for_an_old_webhook_is_final(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    settings = settings.model_copy(update={"early_seconds": 0.5})
    url = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=404)] * 100)
    async with serving(settings, zendesk) as client, working(settings):
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
        email = await client.until(email_id, "completed", "failed")

    assert (email["processing_status"], email["error_code"]) == ("failed", "not_found")
    assert len(email["attempts"]) > 1


async def test_known_files_are_downloaded_though_the_look_up_fails(
    settings: Settings, zendesk: Zendesk, res: Resources, database: Any
) -> None:
    """The address of a known file may expire before the API answers."""
    url = zendesk.add_file("a.pdf", PDF)
    async with serving(settings, zendesk) as client:
        email_id = (await client.send(zendesk.payload(attachments=[url], comment_id="5")))["email_id"]
        await database.execute("UPDATE incoming_emails SET attachment_urls = NULL")
        async with working(settings):
            email = await client.until(email_id, "completed", "failed")

    assert (email["processing_status"], email["error_code"]) == ("failed", "not_found")
    assert [file["status"] for file in email["attachments"]] == ["stored"]


@pytest.mark.parametrize(
    "said",
    [
        {"attachments": [{"filename": "a.pdf", "url": ""}]},
        {"attachment_count": 1},
        {"has_attachments": True},
    ],
)
async def test_announced_files_must_be_listed_by_the_api(
    settings: Settings, zendesk: Zendesk, res: Resources, said: dict[str, object]
) -> None:
    """For a young webhook they may be listed later; for an old one the e-mail fails."""
    settings = settings.model_copy(update={"early_seconds": 3, "max_retries": 0})
    comments = [zendesk.add_comment(ticket) for ticket in (1, 2)]
    async with serving(settings, zendesk) as client, working(settings):
        bodies = ({"ticket_id": n, "comment_id": comment, **said} for n, comment in enumerate(comments, 1))
        late, never = [(await client.send(body))["email_id"] for body in bodies]
        await eventually(lambda: attempted(client, late))
        file = describe(zendesk.state, zendesk.file(zendesk.add_file("a.pdf", PDF)))
        zendesk.state.comments["1"][0]["attachments"] = [file]
        ends = [await client.until(email, "completed", "failed") for email in (late, never)]

    assert [email["processing_status"] for email in ends] == ["completed", "failed"]
    assert [file["file_name"] for file in ends[0]["attachments"]] == ["a.pdf"]


async def test_an_older_comment_does_not_replace_one_that_the_api_lacks(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    settings = settings.model_copy(update={"early_seconds": 900})
    zendesk.add_comment(21, created_at=datetime.now(UTC) - timedelta(days=2))
    async with serving(settings, zendesk) as client, working(settings):
        email_id = (await client.send({"ticket_id": 21}))["email_id"]
        await eventually(lambda: attempted(client, email_id))
        zendesk.add_comment(21, attachments=[zendesk.add_file("a.pdf", PDF)])
        email = await client.until(email_id, "completed", "failed")

    assert [file["file_name"] for file in email["attachments"]] == ["a.pdf"]


async def attempted(client: Client, email_id: int) -> bool | None:
    return any(attempt["outcome"] for attempt in (await client.email(email_id))["attempts"]) or None


async def test_a_known_file_in_the_look_up_is_one_file(
    settings: Settings, zendesk: Zendesk, res: Resources, database: Any
) -> None:
    urls = [zendesk.add_file(name, PDF) for name in ("a.pdf", "b.pdf")]
    comment_id = zendesk.add_comment(4711, attachments=urls)
    async with serving(settings, zendesk) as client:
        body = zendesk.payload(attachments=urls[:1], comment_id=comment_id)
        email_id = (await client.send(body))["email_id"]
        await database.execute("UPDATE incoming_emails SET attachment_urls = NULL")
        async with working(settings):
            email = await client.until(email_id, "completed", "failed")

    assert [file["file_name"] for file in email["attachments"]] == ["a.pdf", "b.pdf"]


def test_credentials_that_end_are_an_alert(settings: Settings, zendesk: Zendesk) -> None:
    nobody = {"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None}
    basic = {**nobody, "zendesk_email": zendesk.email, "zendesk_api_token": SecretStr(zendesk.api_token)}

    assert find(settings) == find(settings.model_copy(update=nobody)) == []
    (finding,) = find(settings.model_copy(update=basic))
    assert "30 April 2027" in finding.detail
    assert "30 days" in finding.detail
    (fixed,) = find(settings.model_copy(update={**nobody, "zendesk_oauth_token": SecretStr("x" * 40)}))
    assert "nothing renews it" in fixed.detail


def test_an_account_at_a_domain_with_other_letters_may_be_asked(settings: Settings) -> None:
    account = account_of(settings.model_copy(update={"zendesk_url": "https://hilfe.müller.example"}))
    assert account.url is not None

    Egress(account.download_hosts).check_url(account.url.with_path("/api/v2/users/me.json"))

    assert account.has_host("hilfe.xn--mller-kva.example")


def test_an_account_completes_a_path_to_an_address() -> None:
    account = Account(URL("https://acme.zendesk.com"))

    assert (
        account.absolute("/attachments/token/a/?name=b")
        == "https://acme.zendesk.com/attachments/token/a/?name=b"
    )
    assert account.absolute("//cdn.example/x") == "//cdn.example/x"


async def used_up(database: Any) -> int | None:
    """Return the calls of this minute, once some had to be put off."""
    row = await database.fetchrow(
        "SELECT used, calls_per_minute FROM api_budgets WHERE window_ends_at > now()"
    )
    budget = row["calls_per_minute"] // 100 if row else 0
    return budget if row and row["used"] > budget else None


async def made_calls(zendesk: Zendesk, before: int) -> bool | None:
    return zendesk.state.calls.total() > before or None


async def refusal(res: Resources) -> HoldfastError:
    with pytest.raises(HoldfastError) as refused:
        await res.zendesk.get("/api/v2/users/me.json")
    return refused.value


async def file_refusal(res: Resources, address: str) -> HoldfastError:
    limits = Limits(max_bytes=1024**2, seconds=20, stall_seconds=20)
    with pytest.raises(HoldfastError) as refused:
        async with res.zendesk.file(address, Expected("a.pdf"), limits):
            pass
    return refused.value
