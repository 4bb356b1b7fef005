"""The API of failures, bulk retries, actions, dependencies and content hashes."""

import asyncpg
import pytest
from arq.worker import Worker

from service.local.zendesk.stand_in import Fault, Zendesk
from tests.conftest import Client, eventually
from tests.support.api import post_as_operator
from tests.support.files import PDF
from tests.support.rows import add_many_failed

RETRIES = "/api/v1/retries"


async def test_dry_run_counts_and_starts_no_retry(client: Client, database: asyncpg.Connection) -> None:
    await add_many_failed(database, 3)

    plan = await post_as_operator(client, RETRIES, 200, filter={"error_code": "http_500"}, dry_run=True)

    assert plan == {"planned": 3, "planned_capped": False, "bulk_retry_id": None}
    assert (await client.get(RETRIES))["retries"] == []


async def test_bulk_retry_runs_in_a_worker_and_shows_progress(
    client: Client, zendesk: Zendesk, worker: Worker
) -> None:
    urls = [zendesk.add_file("same.pdf", PDF, faults=[Fault(status=410)]) for _ in range(3)]
    ids = [(await client.send(zendesk.payload(attachments=[url])))["email_id"] for url in urls]
    for email_id in ids:
        await client.until(email_id, "failed")
    (group,) = (await client.get("/api/v1/failures"))["failures"]

    wanted = {"status": "failed", "error_code": group["error_code"], "host": group["host"]}
    begun = await post_as_operator(client, RETRIES, 202, filter=wanted)

    async def done() -> dict[str, object] | None:
        shown = await client.get(f"{RETRIES}/{begun['bulk_retry_id']}")
        return shown if shown["status"] == "done" else None

    shown = await eventually(done)
    for email_id in ids:
        email = await client.until(email_id, "completed")
        assert [action["actor"] for action in email["actions"]] == ["ada (api)"]
    assert group["count"] == begun["planned"] == shown["retried"] == 3
    actions = (await client.get("/api/v1/actions"))["actions"]
    assert [action["action"] for action in actions] == ["retry_many"], "the bulk retry shows its e-mails"
    assert (await client.get("/api/v1/failures"))["failures"] == []


async def test_bulk_retry_is_cancelled_once(client: Client, database: asyncpg.Connection) -> None:
    await add_many_failed(database, 3)
    begun = await post_as_operator(client, RETRIES, 202, filter={})
    path = f"{RETRIES}/{begun['bulk_retry_id']}/cancel"

    assert (await post_as_operator(client, path, 202))["status"] == "cancelled"
    assert (await post_as_operator(client, path, 409))["code"] == "not_running"
    assert (await post_as_operator(client, f"{RETRIES}/99/cancel", 404))["code"] == "bulk_retry_not_found"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"filter": {"status": "queued"}}, 400, "bad_body"),
        ({"filter": {"stratus": "failed"}}, 400, "bad_body"),
        ({"filter": {"ticket": "a\0b"}}, 400, "bad_body"),
        ({"filter": {}, "per_second": 0}, 400, "bad_body"),
        ({"filter": {}, "per_second": 1001}, 400, "bad_body"),
        ({"filter": {}, "dry_run": "yes"}, 400, "bad_body"),
        ({"per_second": 1}, 400, "bad_body"),
    ],
)
async def test_error_in_a_bulk_retry_is_named(
    client: Client, body: dict[str, object], status: int, code: str
) -> None:
    assert (await post_as_operator(client, RETRIES, status, **body))["code"] == code


async def test_content_hash_finds_all_files_with_it(client: Client, zendesk: Zendesk, worker: Worker) -> None:
    urls = [zendesk.add_file("same.pdf", PDF) for _ in range(2)]
    ids = [(await client.send(zendesk.payload(attachments=[url])))["email_id"] for url in urls]
    emails = [await client.until(email_id, "completed") for email_id in ids]
    sha256 = emails[0]["attachments"][0]["sha256"]

    page = await client.get(f"/api/v1/attachments/{sha256}")

    assert [holder["email_id"] for holder in page["holders"]] == sorted(ids, reverse=True)
    assert not page["capped"]
    for unknown in ("0" * 64, "A" * 64, "x", "%00"):
        await client.get(f"/api/v1/attachments/{unknown}", 404)


async def test_original_request_is_shown(client: Client, zendesk: Zendesk) -> None:
    body = b'{"ticket_id": 1, "subject": "caf\\u00e9"}'
    email_id = (await client.send(body))["email_id"]

    request = await client.get(f"/api/v1/emails/{email_id}/request")

    assert request["body"] == body.decode()
    assert ["User-Agent", "Zendesk Webhook"] in request["headers"]
    await client.get("/api/v1/emails/99/request", 404)


async def test_verdict_names_deletions_that_do_not_reach_a_target_and_no_other_alert_of_syncs(
    client: Client, database: asyncpg.Connection
) -> None:
    """Failed and waiting syncs are counted already."""
    for key, summary in (("", "Syncs wait"), ("deletions", "A target still has removed e-mails")):
        await database.execute(
            "INSERT INTO alerts (cause, key, count, summary, detail) VALUES ('sync', $1, 1, $2, '')",
            key,
            summary,
        )

    overview = await client.get("/api/v1/overview")

    assert (overview["alerts"], overview["state"]) == (["A target still has removed e-mails"], "attention")
    assert "A target still has removed e-mails." in overview["verdict"]


async def test_verdict_names_alerts_without_an_email(client: Client, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO alerts (cause, key, count, summary, detail, seen_at)"
        " VALUES ('signatures', '', 7, 'Webhooks have no valid signature', '', now()),"
        " ('silence', '', 1, 'No webhook comes', '', now() - interval '2 min'),"
        " ('failures', 'gone@host', 1, 'E-mails fail with gone at host', '', now()),"
        " ('quarantine', 'not_json', 1, 'Webhooks wait in quarantine with not_json', '', now())"
    )

    overview = await client.get("/api/v1/overview")

    assert overview["verdict"] == (
        "No e-mail came in the last 24 hours. Webhooks have no valid signature. Nothing waiting."
    )
    assert (overview["state"], overview["need_you"]) == ("attention", 0)


async def test_retried_old_email_does_not_make_the_verdict_late(
    client: Client, database: asyncpg.Connection
) -> None:
    await add_many_failed(database, 2)
    await database.execute(
        "UPDATE incoming_emails SET processing_status = 'queued', due_at = now(), completed_at = NULL,"
        " received_at = now() - interval '3 days'"
    )

    again = await client.get("/api/v1/overview")
    await database.execute("UPDATE incoming_emails SET attempt_number = 0")
    late = await client.get("/api/v1/overview")

    assert again["verdict"] == "No e-mail came in the last 24 hours. None needs attention. 2 in progress."
    assert again["state"] == "safe"
    assert (
        late["verdict"] == "No e-mail came in the last 24 hours. None needs attention. Oldest waiting: 3 d."
    )
    assert late["state"] == "late"


async def test_overview_has_a_verdict(client: Client, database: asyncpg.Connection) -> None:
    await add_many_failed(database, 2)
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, attempt_number, received_at, queued_at,"
        " started_at, completed_at) SELECT '1', 'completed', 1, now() - interval '1 h', now() - interval '90 s',"
        " now() - interval '80 s', now()"
        " FROM generate_series(1, 3)"
    )

    overview = await client.get("/api/v1/overview")

    assert overview["verdict"] == (
        "2 of 5 e-mails of the last 24 hours failed; all others are stored. 2 need attention. Nothing waiting."
    )
    assert (overview["not_safe"], overview["not_safe_capped"]) == (2, False)
    assert (overview["state"], overview["last_day"], overview["need_you"]) == ("attention", 5, 2)
    assert sum(hour["received"] for hour in overview["hours"]) == 5
    assert sum(hour["failed"] for hour in overview["hours"]) == 2
    assert overview["times"] == {
        "queue_p50": 10, "queue_p95": 10, "processing_p50": 80, "processing_p95": 80
    }  # fmt: skip


async def test_dependencies_are_shown_with_zendesk_credentials(client: Client) -> None:
    async def known() -> list[dict[str, object]] | None:
        checks: list[dict[str, object]] = (await client.get("/api/v1/checks"))["checks"]
        return checks if all(check["ok"] is not None for check in checks) else None

    checks = await eventually(known)

    assert [check["name"] for check in checks] == ["Postgres", "Redis", "Storage", "Zendesk"]
    assert [check["ok"] for check in checks] == [True] * 4, checks
