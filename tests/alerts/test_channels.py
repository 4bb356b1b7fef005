"""Notices arrive by mail, at Slack and as signed webhooks; hostile text never becomes markup."""

import json
import ssl
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

from service.alerts import mail
from service.alerts.channels import send_to_slack, send_webhook
from service.alerts.mail import Envelope
from service.alerts.message import Notice
from service.errors import HoldfastError, Permanent, Transient
from service.local.servers import free_port
from tests.support.receivers import PASSWORD, SECRET, USER, mail_server, receiver, silent_server

ENVELOPE = Envelope("holdfast@acme.example", ("ops@acme.example", "boss@acme.example"))
NOTICE = Notice(
    id="alert_7_opened",
    kind="alert.opened",
    at=datetime(2025, 10, 20, 9, 30, tzinfo=UTC),
    title="E-mails fail with attachment_gone at files.example",
    text="3 e-mails failed.\nGrüße",
    link="https://holdfast.acme.example/failures",
    data={"cause": "failures", "count": 3},
)
LOGIN = f"{USER}:{quote(PASSWORD, safe='')}@"


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Make a server certificate from an authority that this machine trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def failure_of(url: str) -> HoldfastError:
    with pytest.raises(HoldfastError) as raised:
        await mail.send(url, ENVELOPE, NOTICE)
    assert "127.0.0.1" not in raised.value.message
    assert PASSWORD not in raised.value.message
    return raised.value


@pytest.mark.parametrize("how", ["plain", "STARTTLS", "STARTTLS without a password", "TLS from the start"])
async def test_mail_arrives_with_all_headers(how: str, tls: ssl.SSLContext) -> None:
    implicit = how == "TLS from the start"
    context = None if how == "plain" else tls
    login = "" if how in {"plain", "STARTTLS without a password"} else LOGIN
    async with mail_server(context, implicit=implicit) as server:
        scheme = "smtps" if implicit else "smtp"
        remark = await mail.send(f"{scheme}://{login}127.0.0.1:{server.port}", ENVELOPE, NOTICE)

    [message] = server.mails
    assert remark is None
    assert server.signed_in == bool(login)
    assert server.recipients == [*ENVELOPE.recipients]
    assert message["Subject"] == "[Holdfast] E-mails fail with attachment_gone at files.example"
    assert message["Message-ID"] == "<alert_7_opened@acme.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert (message["From"], message["To"]) == (
        "holdfast@acme.example",
        "ops@acme.example, boss@acme.example",
    )
    assert message.get_content().split() == [*NOTICE.text.split(), NOTICE.link]


async def test_later_mail_of_an_alert_replies_to_the_first() -> None:
    async with mail_server() as server:
        later = Notice("alert_7_resolved", "alert.resolved", NOTICE.at, "Resolved", "text", follows=NOTICE.id)
        await mail.send(f"smtp://127.0.0.1:{server.port}", ENVELOPE, later)

    assert server.mails[0]["In-Reply-To"] == "<alert_7_opened@acme.example>"


async def test_password_is_never_sent_without_tls() -> None:
    async with mail_server() as server:
        error = await failure_of(f"smtp://{LOGIN}127.0.0.1:{server.port}")

    assert isinstance(error, Permanent)
    assert "STARTTLS" in error.message
    assert (server.mails, server.signed_in) == ([], 0)


async def test_server_with_an_untrusted_certificate_gets_neither_password_nor_mail(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with mail_server(tls) as server:
        error = await failure_of(f"smtp://{LOGIN}127.0.0.1:{server.port}")

    assert (type(error), error.code) == (Transient, "tls_failed")
    assert (server.mails, server.signed_in) == ([], 0)


@pytest.mark.parametrize(
    ("says", "kind", "code"),
    [
        ({"MAIL": "451 try again later"}, Transient, "mail_refused"),
        ({"RCPT": "450 greylisted"}, Transient, "recipients_refused"),
        ({"RCPT": "550 nobody here"}, Permanent, "recipients_refused"),
        ({"DATA": "554 smells of spam"}, Permanent, "mail_refused"),
        ({"DATA": "421 closing down"}, Transient, "mail_refused"),
    ],
)
async def test_temporary_refusal_is_transient_and_final_refusal_is_permanent(
    says: dict[str, str], kind: type, code: str
) -> None:
    async with mail_server() as server:
        server.says |= says
        error = await failure_of(f"smtp://127.0.0.1:{server.port}")

    assert (type(error), error.code) == (kind, code)
    assert server.mails == []


async def test_wrong_password_is_permanent(tls: ssl.SSLContext) -> None:
    async with mail_server(tls) as server:
        error = await failure_of(f"smtp://{USER}:wrong@127.0.0.1:{server.port}")

    assert (type(error), error.code) == (Permanent, "mail_refused")


async def test_unreachable_mail_server_is_transient() -> None:
    error = await failure_of(f"smtp://127.0.0.1:{free_port()}")

    assert (type(error), error.code) == (Transient, "mail_server_away")


async def test_silent_mail_server_times_out() -> None:
    async with silent_server() as port:
        error = await failure_of(f"smtp://127.0.0.1:{port}")

    assert (type(error), error.code) == (Transient, "mail_server_slow")


async def test_refused_recipient_does_not_block_the_others() -> None:
    async with mail_server() as server:
        server.refuses = {"boss@acme.example"}
        remark = await mail.send(f"smtp://127.0.0.1:{server.port}", ENVELOPE, NOTICE)

    assert server.recipients == ["ops@acme.example"]
    assert remark == "refused for some recipients: 550"


async def test_line_break_in_a_title_makes_no_header() -> None:
    async with mail_server() as server:
        hostile = Notice("a", "b", NOTICE.at, "title\r\nBcc: victim@customer.example", "text")
        with pytest.raises(Permanent):
            await mail.send(f"smtp://127.0.0.1:{server.port}", ENVELOPE, hostile)

    assert server.mails == []


async def test_slack_text_contains_no_markup() -> None:
    hostile = "<!channel> <https://evil.example|click> & ```\n*now*"
    async with receiver() as server:
        await send_to_slack(server.url, Notice("a", "b", NOTICE.at, "Title <@U1>", hostile, link=NOTICE.link))

    message = json.loads(server.bodies[0])
    assert message["text"] == (
        "*Title &lt;@U1&gt;*\n```\n"
        "&lt;!channel&gt; &lt;https://evil.example|click&gt; &amp; '''\n*now*"
        "\n```\n<https://holdfast.acme.example/failures>"
    )
    assert message["unfurl_links"] is False


async def test_webhook_is_verifiable_and_keeps_its_id_when_sent_again() -> None:
    async with receiver() as server:
        for _ in range(2):
            await send_webhook(server.url, SECRET, NOTICE)

    for body, headers in zip(server.bodies, server.requests, strict=True):
        told = Webhook(SECRET).verify(body, headers)
        assert told["type"] == "alert.opened"
        assert told["data"]["count"] == 3
        assert told["data"]["url"] == NOTICE.link
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(f"{body} ", headers)
    assert [headers["webhook-id"] for headers in server.requests] == ["alert_7_opened"] * 2


@pytest.mark.parametrize(
    ("status", "headers", "kind", "pause"),
    [
        (500, {}, Transient, None),
        (503, {"Retry-After": "120"}, Transient, 120),
        (503, {"Retry-After": "Wed, 21 Oct 2025 07:28:00 GMT"}, Transient, None),
        (429, {"Retry-After": "9"}, Transient, 9),
        (404, {}, Permanent, None),
        (302, {"Location": "http://127.0.0.1:1/"}, Permanent, None),
    ],
)
async def test_status_of_the_receiver_decides_between_transient_and_permanent(
    status: int, headers: dict[str, str], kind: type, pause: int | None
) -> None:
    async with receiver() as server:
        server.status, server.headers = status, headers
        with pytest.raises(HoldfastError) as raised:
            await send_to_slack(server.url, NOTICE)

    error = raised.value
    asked = error.retry_after if isinstance(error, Transient) else None
    assert type(error) is kind
    assert (asked.total_seconds() if asked else None) == pause
    assert "secret" not in error.message


async def test_unreachable_receiver_is_transient_and_its_address_stays_secret() -> None:
    with pytest.raises(Transient) as raised:
        await send_to_slack(f"http://127.0.0.1:{free_port()}/secret", NOTICE)

    assert raised.value.code == "receiver_away"
    assert "secret" not in raised.value.message
