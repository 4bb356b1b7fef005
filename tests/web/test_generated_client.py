"""The client that openapi-python-client generates works, and its results have types."""

import asyncio
import importlib
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest

from service.web.api.docs import _text
from tests.conftest import API_TOKEN, Server
from tests.support.rows import add

NAME = "holdfast_client"


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the client; a warning would mean a missing part."""
    directory = tmp_path_factory.mktemp("client")
    (directory / "openapi.json").write_bytes(_text())
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
    """The generated client, called from a thread."""

    def __init__(self, url: str, token: str) -> None:
        self._client = self.module("client").AuthenticatedClient(base_url=url, token=token)

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{NAME}.{name}")

    def model(self, name: str, module: str) -> Any:
        return getattr(self.module(f"models.{module}"), name)

    async def call(self, operation: str, *path: object, **parameters: object) -> Any:
        """Call an operation; return its parsed answer."""
        call = self.module(f"api.{operation}").sync
        return await asyncio.to_thread(call, *path, client=self._client, **parameters)


@pytest.fixture
def api(generated: Path, client: Server, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.syspath_prepend(generated)
    return Api(client.url, API_TOKEN)


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


async def test_generated_client_parses_every_answer_without_parameters(
    api: Api, database: asyncpg.Connection
) -> None:
    await add(database, processing_status="failed", error_code="attachment_gone")
    operations = {
        "failures.list_failures": ("FailurePage", "failure_page"),
        "quarantine.list_quarantined": ("QuarantinePage", "quarantine_page"),
        "overview.show_overview": ("Overview", "overview"),
        "overview.list_alerts": ("AlertPage", "alert_page"),
        "overview.list_actions": ("ActionPage", "action_page"),
        "overview.list_reconciliations": ("ReconciliationPage", "reconciliation_page"),
        "overview.show_checks": ("CheckPage", "check_page"),
        "health.healthz": ("Health", "health"),
        "health.readyz": ("Readiness", "readiness"),
    }

    answers = {operation: await api.call(operation) for operation in operations}

    for operation, (name, module) in operations.items():
        assert isinstance(answers[operation], api.model(name, module)), operation
    assert "holdfast_webhooks_total" in await api.call("health.metrics")
