"""The API over HTTP: its tokens, its answers, and the safety of files in a browser."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from arq.worker import Worker
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.postgres.email_tables import Attachment, Attempt, IncomingEmail
from service.telemetry.version import commit, version
from tests.conftest import API_TOKEN, Client, serving
from tests.support.api import AUTHORIZED, EMAILS, ask, refused
from tests.support.rows import add

NOON = datetime(2025, 11, 3, 12, 0, tzinfo=UTC)
ENDPOINTS = [
    ("GET", EMAILS),
    ("GET", f"{EMAILS}/1"),
    ("GET", f"{EMAILS}/1/attachments/0/content"),
    ("POST", f"{EMAILS}/1/retry"),
    ("GET", "/api/v1/quarantine"),
    ("GET", "/api/v1/quarantine/1"),
    ("POST", "/api/v1/quarantine/1/replay"),
    ("GET", "/api/v1/stats"),
]


# ── tokens


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong-hunter2",
        f"Bearer {API_TOKEN}x",
        f"Bearer {API_TOKEN[:-1]}",
        f"Basic {API_TOKEN}",
        API_TOKEN,
        "Bearer \u00e9\u20ac hunter2",
    ],
)
async def test_without_token_every_path_gets_401(client: Client, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    asked = [*ENDPOINTS, ("GET", "/api"), ("GET", "/api/v1/nothing"), ("GET", "/%61pi/v1/stats")]
    told = await asyncio.gather(*(ask(client, method, path, headers) for method, path in asked))

    for response, body in told:
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer"), response.url
        assert response.content_type == "application/problem+json"
        assert json.loads(body)["code"] == "unauthorized"
        assert API_TOKEN not in f"{response.headers} {body!r}"
        assert "hunter2" not in f"{response.headers} {body!r}"


async def test_token_of_invalid_utf8_gets_401(client: Client) -> None:
    reader, writer = await asyncio.open_connection(
        client.url.split(":")[1][2:], int(client.url.split(":")[2])
    )
    writer.write(b"GET /api/v1/stats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")

    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_authorization_scheme_is_case_insensitive(client: Client) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        response, _ = await ask(client, "GET", EMAILS, {"Authorization": f"{scheme} {API_TOKEN}"})

        assert response.status == 200


@pytest.mark.parametrize("token", [None, SecretStr("")])
async def test_without_token_set_the_api_is_closed(
    settings: Settings, zendesk: Zendesk, token: SecretStr | None
) -> None:
    async with serving(settings.model_copy(update={"api_token": token}), zendesk) as client:
        for headers in (AUTHORIZED, {}, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
            for method, path in ENDPOINTS:
                problem = await refused(client, method, path, 403, headers=headers)

                assert problem["code"] == "api_closed"


# ── the list


async def test_list_is_filtered_by_status_and_ticket(client: Client, database: asyncpg.Connection) -> None:
    for status in ("received", "queued", "processing", "completed", "failed"):
        for ticket in ("1", "12345678901234567890123456"):
            await add(database, zendesk_ticket_id=ticket, processing_status=status)

    async def ids(query: str) -> list[int]:
        return [email["id"] for email in (await client.get(f"{EMAILS}{query}"))["emails"]]

    assert await ids("") == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert await ids("?status=failed") == [10, 9]
    assert await ids("?ticket=12345678901234567890123456") == [10, 8, 6, 4, 2]
    assert await ids("?ticket=1&status=queued") == [3]
    assert await ids("?ticket=2") == []
    assert await ids("?ticket=%27%20OR%201%3D1") == []


@pytest.mark.parametrize("narrowed", ["", "&status=received", "&ticket=4711", "&status=received&ticket=4711"])
async def test_pages_neither_repeat_nor_skip_while_emails_arrive(
    client: Client, database: asyncpg.Connection, narrowed: str
) -> None:
    async with database.transaction():  # all at the same time
        for _ in range(4):
            await add(database)
    for _ in range(5):
        await add(database)
    pages: list[list[int]] = []
    query = f"?limit=2{narrowed}"
    while True:
        page = await client.get(f"{EMAILS}{query}")
        pages.append([email["id"] for email in page["emails"]])
        await add(database)
        if page["next_cursor"] is None:
            break
        query = f"?limit=2{narrowed}&cursor={quote(page['next_cursor'])}"

    assert pages == [[9, 8], [7, 6], [5, 4], [3, 2], [1]]


async def test_page_has_50_emails_by_default(client: Client, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id) SELECT n FROM generate_series(1, 201) n"
    )

    assert len((await client.get(EMAILS))["emails"]) == 50
    assert len((await client.get(f"{EMAILS}?limit=200"))["emails"]) == 200
    assert len((await client.get(f"{EMAILS}?limit=1"))["emails"]) == 1


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "bad_parameter"),
        ("limit=201", "bad_parameter"),
        ("limit=-1", "bad_parameter"),
        ("limit=many", "bad_parameter"),
        ("limit=1e1", "bad_parameter"),
        (f"limit={'9' * 5000}", "bad_parameter"),
        ("status=done", "bad_parameter"),
        ("status=", "bad_parameter"),
        ("tikcet=1", "bad_parameter"),
        ("ticket=%00", "bad_parameter"),
        ("cursor=x", "bad_cursor"),
        ("cursor=%C3%A9%00", "bad_cursor"),
        ("cursor=MjAyNS0xMS0wM1QxMjowMDowMCswMDowMA==", "bad_cursor"),  # no id
        ("cursor=MjAyNS0xMS0wM1QxMjowMDowMCAx", "bad_cursor"),  # no time zone
        ("cursor=MjAyNS0xMS0wM1QxMjowMDowMCswMDowMCAtMQ==", "bad_cursor"),  # id -1
        ("cursor=MDAwMS0wMS0wMVQwMDowMDowMCsyMzo1OSAx&status=failed", "bad_cursor"),  # before the year 1
        ("cursor=OTk5OS0xMi0zMVQyMzo1OTowMC0yMzo1OSAx&status=failed", "bad_cursor"),  # after 9999
    ],
)
async def test_wrong_parameter_is_named_in_the_error(client: Client, query: str, code: str) -> None:
    problem = await refused(client, "GET", f"{EMAILS}?{query}", 400)

    assert problem["code"] == code
    if code == "bad_parameter":
        assert problem["detail"].startswith(query.partition("=")[0])


async def test_query_with_any_bytes_is_answered(client: Client) -> None:
    for ticket in ("%FF%FE", "%ED%A0%80", "%F0%9F%93%A7", "a" * 5000, "%0D%0A"):
        response, _ = await ask(client, "GET", f"{EMAILS}?ticket={ticket}")

        assert response.status in {200, 400}, ticket


# ── one e-mail


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/v2/emails", f"{EMAILS}/", f"{EMAILS}/1/attachments", "/.env"]
)
async def test_missing_objects_get_404_with_a_code(client: Client, path: str) -> None:
    assert (await refused(client, "GET", path, 404))["code"] == "not_found"


@pytest.mark.parametrize(
    "number",
    ["1", "0", "-1", "9" * 18, "9" * 19, "9" * 5000, "1.5", "1e3", "abc", "%D9%A1", "%00", "1%20", "None"],
)
async def test_number_that_no_email_can_have_gets_404(client: Client, number: str) -> None:
    await refused(client, "GET", f"{EMAILS}/{number}", 404)
    await refused(client, "GET", f"{EMAILS}/{number}/attachments/0/content", 404)
    await refused(client, "GET", f"{EMAILS}/1/attachments/{number}/content", 404)
    await refused(client, "POST", f"{EMAILS}/{number}/retry", 404)


async def test_email_is_shown_with_all_columns_files_and_attempts(
    client: Client, database: asyncpg.Connection
) -> None:
    email_id = await add(
        database,
        processing_status="completed",
        received_at=NOON,
        started_at=NOON + timedelta(seconds=2.5),
        completed_at=NOON + timedelta(seconds=6),
        retry_count=1,
        attempt_number=2,
        attachment_urls='["https://acme.zendesk.com/a"]',
        raw_body=b"raw",
    )
    stored: dict[str, object] = {
        "status": "stored",
        "size": 3,
        "sha256": "ab" * 32,
        "object_key": f"sha256/ab/{'ab' * 31}",
    }
    gone: dict[str, object] = {"status": "failed", "error_code": "attachment_gone", "error": "It is gone."}
    for position, columns in enumerate((stored, gone)):
        await add(
            database, "attachments", email_id=email_id, position=position, source_url="https://a", **columns
        )
    for number, outcome in ((1, "released"), (2, "completed")):
        await add(
            database,
            "attempts",
            email_id=email_id,
            number=number,
            worker="w",
            started_at=NOON,
            outcome=outcome,
        )

    email = await client.email(email_id)
    (listed,) = (await client.get(EMAILS))["emails"]

    kept_apart = {"raw_body", "raw_headers", "signature_hash", "reading_hash", "has_news", "identified"}
    columns_of = {column.name for column in IncomingEmail.__table__.c if "dismiss" not in column.name}
    job = {*columns_of, "dismissal", "held_by"} - kept_apart
    history = {"queue_seconds", "processing_seconds", "attempts", "actions"}
    assert set(email) == job | history | {"attachments", "message", "announcements", "matches"}
    assert (email["queue_seconds"], email["processing_seconds"]) == (2.5, 3.5)
    assert datetime.fromisoformat(email["received_at"]) == NOON
    assert email["attachment_urls"] == ["https://acme.zendesk.com/a"]
    first, second = email["attachments"]
    assert set(first) == {column.name for column in Attachment.__table__.c} - {"email_id"} | {"href"}
    assert first.items() >= stored.items()
    assert first["href"] == f"{EMAILS}/{email_id}/attachments/0/content"
    assert second.items() >= {**gone, "href": None, "size": None, "sha256": None}.items()
    assert set(email["attempts"][0]) == {column.name for column in Attempt.__table__.c} - {"email_id"}
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["released", "completed"]
    further = {
        "message": None,
        "held_by": [],
        "announcements": [],
        "attempts": email["attempts"],
        "actions": [],
    }
    assert email == listed | further


async def test_durations_are_null_until_the_end(client: Client, database: asyncpg.Connection) -> None:
    waiting = await client.email(await add(database))
    running = await client.email(
        await add(database, processing_status="processing", received_at=NOON, started_at=NOON)
    )

    assert (waiting["queue_seconds"], waiting["processing_seconds"]) == (None, None)
    assert (running["queue_seconds"], running["processing_seconds"]) == (0, None)


async def test_any_stored_webhook_is_shown_as_json(client: Client, database: asyncpg.Connection) -> None:
    sent = r'[{"url": "\ud800\u0000\u202e", "id": 12345678901234567890123456, "é": "\"<b>"}]'
    email_id = await add(database, attachment_urls=sent, subject="\x1b[31m<script>\u202e\U0001f4e7")

    for path in (f"{EMAILS}/{email_id}", EMAILS):
        _, body = await ask(client, "GET", path)

        shown = json.loads(body)
        email = shown.get("emails", [shown])[0]
        assert email["attachment_urls"] == json.loads(sent)
        assert email["subject"] == "\x1b[31m<script>\u202e\U0001f4e7"


async def test_strangest_accepted_webhook_is_shown(client: Client, zendesk: Zendesk) -> None:
    deep: Any = "deep"
    for _ in range(90):
        deep = [deep]
    url = {"url": "https://acme.zendesk.com/attachments/token/x/?name=\ud800", "deep": deep, "n": 10**26}
    receipt = await client.send(
        zendesk.payload(ticket_id=10**26, subject="a\0b\ud800") | {"attachments": [url]}
    )

    email = await client.email(receipt["email_id"])

    assert receipt["status"] == "accepted"
    assert email["zendesk_ticket_id"] == str(10**26)
    assert email["attachment_urls"] == [url]


# ── retry


async def test_retry_of_a_failed_email_keeps_history_and_resets_retries(
    client: Client, worker: Worker, database: asyncpg.Connection, zendesk: Zendesk, settings: Settings
) -> None:
    url = zendesk.add_file("later.txt", b"later")
    file = zendesk.state.files.pop(token := url.split("/")[5])
    payload = {**zendesk.payload(), "attachments": [{"url": url, "filename": "later.txt"}]}
    receipt = await client.send(payload)
    failed = await client.until(receipt["email_id"], "failed")
    zendesk.state.files[token] = file

    answer = await client.post(f"{EMAILS}/{failed['id']}/retry")
    email = await client.until(failed["id"], "completed", "failed")

    assert answer == {"status": "queued", "email_id": failed["id"]}
    assert failed["processing_error"]
    assert failed["error_code"]
    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)
    assert (email["processing_error"], email["error_code"]) == (None, None)
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["failed", "completed"]
    assert email["attempts"][0] == failed["attempts"][0]


@pytest.mark.parametrize("status", ["received", "queued", "processing"])
async def test_retry_of_an_unfinished_email_is_refused(
    client: Client, database: asyncpg.Connection, status: str
) -> None:
    email_id = await add(database, processing_status=status)

    problem = await refused(client, "POST", f"{EMAILS}/{email_id}/retry", 409)

    assert problem["code"] == "not_finished"
    assert (await client.email(email_id))["processing_status"] == status


async def test_wrong_method_gets_405_with_allowed_methods(client: Client) -> None:
    response, body = await ask(client, "GET", f"{EMAILS}/1/retry")

    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert json.loads(body)["code"] == "method_not_allowed"


# ── statistics


async def test_stats_count_by_status_and_show_the_age_of_the_oldest(
    client: Client, database: asyncpg.Connection
) -> None:
    empty = await client.get("/api/v1/stats")
    hour = await database.fetchval("SELECT now() - interval '1 hour'")
    await add(database, processing_status="completed", received_at=NOON)
    await add(database, processing_status="queued", received_at=hour)
    await add(database)
    await add(database, processing_status="failed", received_at=NOON)

    stats = await client.get("/api/v1/stats")

    nothing = dict.fromkeys(("received", "queued", "processing", "completed", "failed"), 0)
    assert empty == {
        "by_status": nothing,
        "quarantined": 0,
        "capped": [],
        "oldest_waiting_seconds": None,
        "oldest_not_begun_seconds": None,
        "oldest_by_status": {},
        "by_sync_status": {"pending": 0, "failed": 0},
        "open_failed": 0,
        "open_sync_failed": 0,
        "dismissed": 0,
        "dismissed_webhooks": 0,
        "oldest_sync_seconds": None,
    }
    assert stats["by_status"] == {**nothing, "received": 1, "queued": 1, "completed": 1, "failed": 1}
    assert 3600 <= stats["oldest_waiting_seconds"] < 3700
    assert 3600 <= stats["oldest_not_begun_seconds"] < 3700


async def test_capped_count_is_marked(client: Client, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status)"
        " SELECT n, 'completed' FROM generate_series(1, 10001) n"
    )

    stats = await client.get("/api/v1/stats")

    assert (stats["by_status"]["completed"], stats["capped"]) == (10_000, ["completed"])


async def test_metrics_are_prometheus_text_with_help(
    client: Client, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    await client.send(zendesk.payload())

    response, body = await ask(client, "GET", "/metrics", {})

    assert response.headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    ours = {name: family for name, family in families.items() if name.startswith("holdfast_")}
    assert {"holdfast_webhooks", "holdfast_emails", "holdfast_oldest_waiting_seconds"} <= set(ours)
    assert all(family.documentation for family in ours.values())
    counts = {sample.labels["status"]: sample.value for sample in ours["holdfast_emails"].samples}
    assert set(counts) == {"received", "queued", "processing", "completed", "failed"}
    assert sum(counts.values()) == 1


# ── dependencies that are down


async def test_readyz_is_200_with_all_three_dependencies(client: Client) -> None:
    ready = await client.get("/readyz")

    assert ready["status"] == "ready"
    assert {name: check["ok"] for name, check in ready["checks"].items()} == {
        "database": True,
        "redis": True,
        "storage": True,
    }


@pytest.mark.parametrize(
    ("away", "changes"),
    [
        ("database", {"database_url": SecretStr("postgres://user:hunter2@127.0.0.1:1/name")}),
        ("redis", {"redis_url": SecretStr("redis://:hunter2@127.0.0.1:1")}),
        ("storage", {"storage_url": "file:///proc/hunter2"}),
    ],
)
async def test_readyz_is_503_and_names_the_missing_dependency(
    settings: Settings, zendesk: Zendesk, away: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    # Only of a directory with nothing yet does nobody know whether it is the right one while Postgres is away.
    await asyncio.to_thread((tmp_path / "objects" / ".spool").mkdir, parents=True)
    async with serving(settings.model_copy(update=changes), zendesk) as client:
        answer = await client.get("/readyz", status=503)
        alive = await client.get("/healthz")

    assert answer["status"] == "not_ready"
    assert {name: check["ok"] for name, check in answer["checks"].items()} == {
        name: name != away for name in ("database", "redis", "storage")
    }
    assert "hunter2" not in str(answer)
    assert alive == {"status": "ok", "version": version(), "commit": commit()}


@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("incoming_emails RENAME late TO late_before", "incoming_emails RENAME late_before TO late"),
        ("saved_filters RENAME TO filters_before", "filters_before RENAME TO saved_filters"),
    ],
)
async def test_without_a_table_or_column_of_this_version_nothing_is_ready(
    settings: Settings,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    change: str,
    back: str,
) -> None:
    await database.execute(f"ALTER TABLE {change}")
    try:
        async with serving(settings, zendesk) as client:
            answer = await client.get("/readyz", status=503)
    finally:
        await database.execute(f"ALTER TABLE {back}")

    assert answer["status"] == "not_ready"
    found = answer["checks"]["database"]
    assert (found["ok"], found["error"]) == (False, "database_unavailable")
    assert found["detail"] == "The tables are not those of this version: `holdfast check` says what to do."


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read everything, and never answer."""
    with suppress(ConnectionError):
        while await reader.read(1000):
            pass
    writer.close()


@pytest.mark.parametrize("kind", ["refuses", "hangs"])
async def test_without_postgres_the_api_answers_503(settings: Settings, zendesk: Zendesk, kind: str) -> None:
    async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1] if kind == "hangs" else 1
        away = {
            "database_url": SecretStr(f"postgres://u:hunter2@127.0.0.1:{port}/name?sslmode=disable"),
            "database_seconds": 0.3,
        }
        async with serving(settings.model_copy(update=away), zendesk) as client:
            for method, path in ENDPOINTS:
                response, body = await ask(client, method, path)

                assert (response.status, response.headers["Retry-After"]) == (503, "10"), path
                assert response.content_type == "application/problem+json"
                assert json.loads(body)["code"] in {"database_unavailable", "database_slow"}
                assert b"hunter2" not in body
            _, body = await ask(client, "GET", "/metrics")
            assert b"# HELP holdfast_emails" in body
            assert b'holdfast_emails{status="' not in body
