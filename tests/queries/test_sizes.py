"""Lists stay small even with long texts in every column."""

import json

import asyncpg
import pytest
from sqlalchemy import Text

from service.config.settings import Settings
from service.postgres.alert_tables import Alert, AlertDelivery
from service.postgres.email_tables import Attachment, Attempt, Base, IncomingEmail, QuarantinedWebhook
from service.postgres.operation_tables import BulkRetry, OperatorAction, WorkerHeartbeat
from service.postgres.reconciliation_tables import Reconciliation, ReconciliationFinding
from service.postgres.source_tables import Backfill, Connection, Source, SourceEmail, SuspendedEmail
from service.queries.emails import EmailFilter, list_details
from service.resources import Resources
from tests.conftest import API_TOKEN, Server
from tests.support.commands import typed

ROWS = 10
LONG = 200_000
# Columns without long texts: a CHECK or an index limits them, or only Holdfast writes them.
SHORT = {
    *("id", "cause", "kind", "fix", "what", "news", "channel", "outcome", "idempotency_key", "sha256"),
    *("processing_status", "sync_status", "status", "metrics", "error_code", "error_host", "name", "key"),
}
MOST_BYTES = 400_000
DAY = "2026-01-31"
EMAIL_PAGE_BYTES = 1_500_000

LISTS = (
    *("/api/v1/emails", "/api/v1/emails?q=x", "/api/v1/emails?status=failed", "/api/v1/failures"),
    *("/api/v1/quarantine", "/api/v1/retries", "/api/v1/actions", "/api/v1/alerts", "/api/v1/overview"),
    *(
        "/api/v1/reconciliations",
        "/api/v1/reconciliations/1",
        f"/api/v1/attachments/{'a' * 64}",
        "/api/v1/stats",
    ),
    *("/", "/emails", "/emails?q=x", "/failures", "/quarantine", "/retries", "/activity"),
    *("/reconciliations", "/reconciliations/1"),
    *("/api/v1/source", f"/api/v1/source?day={DAY}&list=in_zendesk", "/complete"),
    *(f"/complete?day={DAY}&list={name}" for name in ("in_zendesk", "failed", "missing")),
)


async def fill(database: asyncpg.Connection, table: type[Base], **values: str) -> None:
    """Insert rows with long texts in all possible columns; `values` are SQL, with `n` for the row's number."""
    texts = {
        column.name: f"repeat('x', {LONG})"
        for column in table.__table__.columns
        if isinstance(column.type, Text) and column.name not in SHORT
    }
    columns = {**texts, **values}
    await database.execute(
        f"INSERT INTO {table.__tablename__} ({', '.join(columns)})"
        f" SELECT {', '.join(columns.values())} FROM generate_series(1, {ROWS}) AS n"
    )


@pytest.fixture
async def crowded(database: asyncpg.Connection) -> None:
    urls = f"to_json(array[repeat('u', {LONG})])"
    ticket = "repeat('7', 100000)"  # the limit of the index
    await fill(
        database,
        IncomingEmail,
        idempotency_key="'k' || n",
        zendesk_ticket_id=ticket,
        processing_status="'failed'",
        sync_status="'failed'",
        error_code="'bad_' || n % 2",
        attachment_urls=urls,
        raw_body="'{}'",
        raw_headers=f"to_json(array[array['X-Long', repeat('h', {LONG})]])",
        completed_at="now()",
    )
    await fill(
        database,
        Attachment,
        email_id="n",
        position="0",
        status="'failed'",
        sha256=f"'{'a' * 64}'",
    )
    await fill(database, Attempt, email_id="n", number="1")
    await fill(
        database,
        QuarantinedWebhook,
        idempotency_key="'q' || n",
        error_code="'bad'",
        raw_body="'{}'",
        raw_headers=f"to_json(array[array['X-Long', repeat('h', {LONG})]])",
    )
    await fill(database, Source, account="'a' || n", leg="'lists'", proof="NULL")
    await fill(database, Backfill, account="'a' || n", kind="'current'", leg="'events'", since="now()")
    await fill(
        database,
        SourceEmail,
        account="'a' || n",
        ticket_id="repeat('7', 1000)",
        comment_id="repeat('7', 1000) || n",
        created_at=f"'{DAY}'",
    )
    await fill(database, SuspendedEmail, account="'a' || n", suspended_id="n", files="'[]'", record_size="1")
    drift = f"json_build_array(json_build_object('code', 'x', 'text', repeat('t', {LONG})))"
    await fill(database, Connection, account="'a' || n", drift=drift)
    await fill(database, OperatorAction)
    counts = {"per_second": "1", "planned": "1", "planned_capped": "false"}
    await fill(database, BulkRetry, action="'retry'", filter="'{}'", **counts)
    await fill(database, WorkerHeartbeat, name="'w' || n", pid="n")
    await fill(database, Alert, cause="'waiting'", key="'k' || n", count="1")
    await fill(database, AlertDelivery, alert_id="n", news="'opened'", channel="'mail'")
    await fill(database, Reconciliation, kind="'reconcile'", status="'done'", fix="'all'", targets="NULL")
    await fill(
        database,
        ReconciliationFinding,
        reconciliation_id="1",
        kind="'missing'",
        key="repeat('x', 10000) || n",
        detail=f"json_build_object('reason', repeat('r', {LONG}), 'document', repeat('d', {LONG}))",
    )


async def fetched(client: Server, path: str) -> bytes:
    headers = {"Authorization": f"Bearer {API_TOKEN}", "Accept": "*/*" if "/api/" in path else "text/html"}
    async with client.session.get(f"{client.url}{path}", headers=headers) as response:
        assert response.status == 200, (path, await response.text())
        return await response.read()


async def test_every_list_stays_small(client: Server, crowded: None) -> None:
    sizes = {path: len(await fetched(client, path)) for path in LISTS}

    assert {path: size for path, size in sizes.items() if size > MOST_BYTES} == {}


async def test_page_of_one_e_mail_is_bounded_and_says_so(client: Server, crowded: None) -> None:
    email = await fetched(client, "/emails/1")
    webhook = await fetched(client, "/quarantine/1")

    assert len(email) < EMAIL_PAGE_BYTES
    assert len(webhook) < EMAIL_PAGE_BYTES
    assert b"This page cuts long texts" in email


async def test_api_answer_about_one_e_mail_has_whole_texts(client: Server, crowded: None) -> None:
    email = json.loads(await fetched(client, "/api/v1/emails/1"))
    webhook = json.loads(await fetched(client, "/api/v1/quarantine/1"))

    assert {len(email[name]) for name in ("subject", "from_name", "from_email", "processing_error")} == {LONG}
    assert len(email["attachment_urls"][0]) == LONG
    assert len(email["attachments"][0]["source_url"]) == LONG
    assert len(webhook["error"]) == LONG


async def test_export_has_whole_texts(res: Resources, crowded: None) -> None:
    _, (email, *_) = await list_details(res.engine, EmailFilter(limit=1))

    assert email.subject == "x" * LONG
    assert len(email.attachments[0].file_name or "") == LONG


COMMANDS = (
    ("emails", "list"),
    ("emails", "list", "--json"),
    ("emails", "holding", "a" * 64),
    ("failures",),
    ("quarantine", "list"),
    ("alerts",),
    ("retries", "list"),
    ("activity",),
    ("status",),
    ("reconcile", "show", "1"),
)


async def test_every_list_of_the_command_line_stays_small(
    settings: Settings, res: Resources, crowded: None
) -> None:
    done = {words: await typed(settings, *words) for words in COMMANDS}

    assert {words: each.stderr for words, each in done.items() if each.stderr} == {}
    assert {words for words, each in done.items() if len(each.stdout) > MOST_BYTES} == set()


async def test_e_mail_with_many_files_does_not_make_a_list_long(
    client: Server, database: asyncpg.Connection
) -> None:
    await database.execute("INSERT INTO incoming_emails (zendesk_ticket_id) VALUES ('1')")
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url) SELECT 1, n, 'https://h/' || n"
        " FROM generate_series(0, 499) AS n"
    )

    (listed,) = json.loads(await fetched(client, "/api/v1/emails"))["emails"]
    shown = json.loads(await fetched(client, "/api/v1/emails/1"))

    assert [file["position"] for file in listed["attachments"]] == [*range(100)]
    assert len(shown["attachments"]) == 500
