"""The client of Zendesk: access tokens, the account's rate limit, and the meaning of the API's responses."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
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
from service.resources import Resources, open_resources
from service.zendesk.account import Account
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


async def test_pages_end_at_the_limit(res: Resources, zendesk: Zendesk) -> None:
    for _ in range(10):
        zendesk.add_comment(7)

    pages = [
        page async for page in res.zendesk.pages("/api/v2/tickets/7/comments.json", 3, **{"page[size]": "1"})
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


def test_an_account_completes_a_path_to_an_address() -> None:
    account = Account(URL("https://acme.zendesk.com"))

    assert (
        account.absolute("/attachments/token/a/?name=b")
        == "https://acme.zendesk.com/attachments/token/a/?name=b"
    )
    assert account.absolute("//cdn.example/x") == "//cdn.example/x"


async def refusal(res: Resources) -> HoldfastError:
    with pytest.raises(HoldfastError) as refused:
        await res.zendesk.get("/api/v2/users/me.json")
    return refused.value
