"""The client that openapi-python-client generates works, and its results have types."""

import asyncio
import importlib
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.sender import sign_headers
from service.operate.logins import Confirmation, confirm
from service.resources import Resources
from service.web.api import docs
from tests.conftest import API_TOKEN, Server
from tests.support.files import add_file
from tests.support.messages import ORIGINAL, add_message
from tests.support.rows import QUARANTINED_BODY, add, add_findings, add_quarantined_body, add_reconciliation
from tests.support.source import account_key, add_source, asking
from tests.support.targets import synced_to

NAME = "holdfast_client"
# The name of each operation in the client, and of the type of its answer.
ANSWERS = {
    f"{re.sub('[^a-z]', '_', route.tag.lower())}.{route.handler.__name__}": (
        route.answer.__name__ if route.answer else "str" if route.media_type.startswith("text/") else "File"
    )
    for route in docs.API
} | {"messages.message_record": "MessageRecordResponse200"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return synced_to(asking(settings))


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the client; a warning would mean a missing part."""
    directory = tmp_path_factory.mktemp("client")
    (directory / "openapi.json").write_bytes(docs._text())
    (directory / "config.yml").write_text("post_hooks: []\n")
    words = ["generate", "--path", "openapi.json", "--config", "config.yml", "--meta", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *words, "--output-path", NAME, "--fail-on-warning"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


class Api:
    """The generated client, called from a thread; it signs webhooks as Zendesk does."""

    def __init__(self, url: str, token: str, secret: str) -> None:
        def sign(request: Any) -> None:
            request.headers.update(sign_headers(request.content, secret))

        self.called: set[str] = set()
        self._client = self.module("client").AuthenticatedClient(
            base_url=url, token=token, httpx_args={"event_hooks": {"request": [sign]}}
        )

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{NAME}.{name}")

    def model(self, name: str, module: str) -> Any:
        return getattr(self.module(f"models.{module}"), name)

    async def call(self, operation: str, *path: object, **parameters: object) -> Any:
        """Call an operation; return its parsed answer."""
        self.called.add(operation)
        call = self.module(f"api.{operation}").sync
        return await asyncio.to_thread(call, *path, client=self._client, **parameters)


@pytest.fixture
def api(generated: Path, client: Server, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.syspath_prepend(generated)
    return Api(client.url, API_TOKEN, client.zendesk.secret)


async def test_generated_client_lists_shows_counts_and_retries(
    api: Api, database: asyncpg.Connection
) -> None:
    sent = datetime(2025, 11, 3, 12, tzinfo=UTC)
    for subject in ("One", None):
        await add(
            database,
            processing_status="failed",
            subject=subject,
            attachment_urls='["https://acme.zendesk.com/a"]',
            raw_body=b"{}",
            raw_headers='[["Content-Type", "application/json"]]',
            completed_at=sent,
        )
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, status) VALUES (1, 0, 'https://h/a', 'failed')"
    )
    status = api.model("ListEmailsStatus", "list_emails_status").FAILED

    page = await api.call("e_mails.list_emails", status=status, limit=1)
    rest = await api.call("e_mails.list_emails", status=status, limit=1, cursor=page.next_cursor)
    email = await api.call("e_mails.show_email", 1)
    request = await api.call("e_mails.show_request", 1)
    stats = await api.call("overview.stats")
    queued = await api.call("e_mails.retry_email", 1)
    missing = await api.call("e_mails.show_email", 4711)

    assert isinstance(page, api.model("EmailPage", "email_page"))
    assert (page.total, [each.id for each in page.emails], [each.id for each in rest.emails]) == (2, [2], [1])
    assert page.emails[0].subject is None
    assert isinstance(email, api.model("EmailDetail", "email_detail"))
    assert (email.subject, email.completed_at, email.attachment_urls) == (
        "One",
        sent,
        ["https://acme.zendesk.com/a"],
    )
    assert email.processing_status.value == "failed"
    assert [file.source_url for file in email.attachments] == ["https://h/a"]
    assert request.headers == [["Content-Type", "application/json"]]
    assert stats.by_status["failed"] == 2
    assert (queued.status, queued.email_id) == ("queued", 1)
    assert isinstance(missing, api.model("Problem", "problem"))
    assert (missing.status, missing.code) == (404, "email_not_found")


async def test_generated_client_has_types_of_bodies(api: Api, database: asyncpg.Connection) -> None:
    now = datetime.now(UTC)
    await add(database, processing_status="failed", error_code="attachment_gone", completed_at=now)
    wanted = api.model("Finished", "finished")(error_code="attachment_gone")
    body = api.model("BulkRetryRequest", "bulk_retry_request")(filter_=wanted, dry_run=True)

    planned = await api.call("failures.start_retry", body=body)
    begun = await api.call(
        "failures.start_retry", body=api.model("BulkRetryRequest", "bulk_retry_request")(wanted)
    )
    retries = await api.call("failures.list_retries")

    assert (planned.planned, planned.bulk_retry_id) == (1, None)
    assert [retry.id for retry in retries.retries] == [begun.bulk_retry_id]
    assert retries.retries[0].filter_.error_code == "attachment_gone"


async def test_generated_client_calls_every_operation(
    api: Api, database: asyncpg.Connection, res: Resources, client: Server
) -> None:
    """Each operation has a call here, and each answer is the model that the document names."""
    await _fill(database, res, client.res.settings)

    for operation, path, parameters in [*_calls(api), *await _logins(api, client)]:
        answer = await api.call(operation, *path, **parameters)
        assert type(answer).__name__ == ANSWERS[operation], (operation, answer)

    assert api.called == set(ANSWERS)


async def _fill(database: asyncpg.Connection, res: Resources, settings: Settings) -> None:
    """Insert what the calls need: e-mail 1 has all parts, 2 and 3 failed, 4 was not synced, 5 is about ticket 99."""
    now = datetime.now(UTC)
    await add_file(database, res, b"content")
    await add_message(database, res, 1, html="<p>Hello</p>", original=ORIGINAL)
    request = {"raw_body": b"{}", "raw_headers": "[]"}
    await database.execute(
        "UPDATE incoming_emails SET raw_body = '', raw_headers = '[]', completed_at = now()"
    )
    await add(database, "announcements", email_id=1, idempotency_key="two", **request)
    for _ in range(2):
        await add(database, processing_status="failed", error_code="attachment_gone", completed_at=now)
    await add(database, processing_status="completed", sync_status="failed", completed_at=now)
    await add(database, processing_status="completed", zendesk_ticket_id="99", completed_at=now)
    await add_quarantined_body(database)
    await add_quarantined_body(database, b"{", idempotency_key="two")
    await add(
        database,
        "ignored_webhooks",
        idempotency_key="three",
        event_type="x",
        **request | {"raw_body": QUARANTINED_BODY},
    )
    await add_findings(database, await add_reconciliation(database), "extra", "missing")
    await database.execute("UPDATE reconciliation_findings SET email_id = 1 WHERE kind = 'missing'")
    await add_source(database, account_key(settings))


async def _logins(api: Api, client: Server) -> Sequence[tuple[str, Sequence[object], dict[str, object]]]:
    """Log in twice and log out once; return the other operations of logins."""
    wanted = api.model("LoginRequest", "login_request")("laptop")
    given = Confirmation("Mara", "operator", API_TOKEN.encode(), 1)
    secrets = []
    for _ in range(2):
        begun = await api.call("logins.begin_login", body=wanted)
        assert await confirm(client.res.engine, begun.user_code, given, "Mara") == "laptop"
        secrets.append(begun.secret)
    own = Api(client.url, secrets[1], client.zendesk.secret)
    out = await own.call("logins.log_out")
    assert (type(out).__name__, out.login_id) == (ANSWERS["logins.log_out"], 2)
    api.called |= own.called
    poll = api.model("PollRequest", "poll_request")(secrets[0])
    return [
        ("logins.poll_login", [], {"body": poll}),
        ("logins.list_logins", [], {}),
        ("logins.revoke_login", [1], {}),
    ]


def _calls(api: Api) -> Sequence[tuple[str, Sequence[object], dict[str, object]]]:
    """Return operations with the values in their paths and their parameters, in an order in which each succeeds."""
    because = {"body": api.model("DismissRequest", "dismiss_request")("It is gone")}
    hold = api.model("HoldRequest", "hold_request")("lawsuit", "A lawsuit", emails=[1])
    ended = api.model("ReleaseRequest", "release_request")("It has ended")
    erasure = api.model("ErasureRequest", "erasure_request")
    failed = api.model("Finished", "finished")(error_code="attachment_gone")
    retry = api.model("BulkRetryRequest", "bulk_retry_request")(failed)
    rules = api.model("RetentionRequest", "retention_request")([], version="", dry_run=True)
    corrected = api.model("CorrectRequest", "correct_request")('{"ticket_id": 5, "subject": "Corrected"}')
    webhooks = api.model("BulkWebhookRequest", "bulk_webhook_request").from_dict(
        {"filter": {}, "action": "replay"}
    )
    saved = api.model("SaveFilterRequest", "save_filter_request").from_dict(
        {"name": "Contracts", "filter": {"q": "contract"}}
    )
    group = api.model("GroupRequest", "group_request")
    noted = api.model("AcknowledgeRequest", "acknowledge_request")("attachment_gone", "none", "I ask them")
    trigger = api.model("Invocation", "invocation").from_dict({"ticket_id": "7", "comment_id": "8"})
    return [
        ("e_mails.list_emails", [], {"q": "Invoice", "limit": 1}),
        ("e_mails.show_email", [1], {}),
        ("e_mails.show_request", [1], {}),
        ("e_mails.list_holders", [sha256(b"content").hexdigest()], {}),
        ("e_mails.attachment_content", [1, 0], {}),
        ("messages.message_text", [1], {}),
        ("messages.message_html", [1], {}),
        ("messages.original_email", [1], {}),
        ("messages.message_record", [1], {}),
        ("messages.email_archive", [1], {}),
        ("messages.list_announcements", [1], {}),
        ("messages.show_announcement", [1, 1], {}),
        ("e_mails.dismiss_email", [2], because),
        ("e_mails.undismiss_email", [2], {}),
        ("e_mails.retry_email", [2], {}),
        ("e_mails.sync_email", [4], {}),
        ("quarantine.list_quarantined", [], {}),
        ("quarantine.show_quarantined", [1], {}),
        ("quarantine.replay", [1], {}),
        ("quarantine.dismiss_webhook", [2], because),
        ("quarantine.undismiss_webhook", [2], {}),
        ("quarantine.correct_webhook", [2], {"body": corrected}),
        ("quarantine.start_webhook_action", [], {"body": webhooks}),
        ("quarantine.list_ignored", [], {}),
        ("quarantine.show_ignored", [1], {}),
        ("quarantine.replay_ignored", [1], {}),
        ("e_mails.save_a_filter", [], {"body": saved}),
        ("e_mails.list_saved_filters", [], {}),
        ("e_mails.remove_a_filter", [1], {}),
        ("failures.list_failures", [], {}),
        ("failures.acknowledge_failures", [], {"body": noted}),
        ("failures.unacknowledge_failures", [], {"body": group("attachment_gone", "none")}),
        ("failures.start_retry", [], {"body": retry}),
        ("failures.list_retries", [], {}),
        ("failures.show_retry", [1], {}),
        ("failures.cancel_retry", [1], {}),
        ("custody.create_hold", [], {"body": hold}),
        ("custody.list_holds", [], {}),
        ("custody.show_hold", ["lawsuit"], {}),
        ("custody.release", ["lawsuit"], {"body": ended}),
        ("custody.show_retention", [], {}),
        ("custody.change_retention", [], {"body": rules}),
        ("custody.show_simulation", [], {}),
        ("erasures.erase", [], {"body": erasure(ticket="99", dry_run=True)}),
        ("erasures.erase", [], {"body": erasure(ticket="99", reason="A request")}),
        ("erasures.list_all", [], {}),
        ("erasures.show_erasure", [1], {}),
        ("custody.list_receipts", [], {}),
        ("custody.show_receipt", [1], {}),
        ("overview.list_actions", [], {}),
        ("overview.list_alerts", [], {}),
        ("overview.list_reconciliations", [], {}),
        ("overview.show_reconciliation", [1], {}),
        ("overview.dismiss_finding", [1], because),
        ("overview.undismiss_finding", [1], {}),
        ("overview.repair_difference", [2], {}),
        ("overview.show_checks", [], {}),
        ("overview.show_overview", [], {}),
        ("overview.stats", [], {}),
        ("complete.show_source", [], {"day": datetime.now(UTC).date()}),
        ("evidence.show_evidence", [], {}),
        ("webhook.receive", [], {"body": trigger}),
        ("changes.list_arrivals", [], {}),
        ("changes.list_changes", [], {"body": api.model("ChangesRequest", "changes_request")()}),
        ("health.healthz", [], {}),
        ("health.readyz", [], {}),
        ("health.metrics", [], {}),
    ]
