"""Retries of syncs: failed syncs are shown and retried, and no job runs for them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from arq.worker import Worker
from pydantic import SecretStr

from service.config.settings import Settings
from service.errors import Rejected
from service.jobs import retries
from service.jobs.syncs import SyncClaimRequest, claim
from service.local.zendesk.stand_in import Zendesk
from service.operate import bulk_retry
from service.postgres.engine import connect
from service.postgres.selection import SYNC, Selection
from service.queries.retries import get_retry
from service.resources import Resources
from tests.conftest import Server, eventually, serving, working
from tests.support.access import READ_TOKEN
from tests.support.api import post_as_operator
from tests.support.pages import press, read, send, words_of
from tests.support.retries import all_steps
from tests.support.targets import SECRET, Receiver, receiver, until_synced

RETRIES = "/api/v1/retries"


@pytest.fixture
async def target() -> AsyncIterator[Receiver]:
    async with receiver() as kept:
        yield kept


@pytest.fixture
def settings(settings: Settings, target: Receiver) -> Settings:
    return settings.model_copy(
        update={
            "sync_url": (SecretStr(target.url),),
            "sync_webhook_secret": (SecretStr(SECRET),),
            "public_url": "https://holdfast.acme.example",
            "api_read_token": SecretStr(READ_TOKEN),
        }
    )


def without_target(settings: Settings) -> Settings:
    return settings.model_copy(update={"sync_url": ()})


async def add(database: asyncpg.Connection, count: int = 1, **columns: Any) -> list[int]:
    """Insert finished e-mails with a failed sync."""
    values = {
        "processing_status": "completed",
        "sync_status": "failed",
        "sync_error_code": "document_refused",
        "sync_error": "webhook: answered 422 to this e-mail",
        **columns,
    }
    names, places = ", ".join(values), ", ".join(f"${place + 2}" for place in range(len(values)))
    completed = "now() - interval '1 s'" if values["processing_status"] in {"completed", "failed"} else "NULL"
    rows = await database.fetch(
        "INSERT INTO incoming_emails (zendesk_ticket_id, attempt_number, sync_retry_count, started_at, completed_at,"
        f" received_at, {names}) SELECT i::text, 1, 2, now(), ({completed})::timestamptz, now() - interval '2 s',"
        f" {places} FROM generate_series(1, $1) AS i RETURNING id",
        count,
        *values.values(),
    )
    return [row["id"] for row in rows]


async def columns(database: asyncpg.Connection, email_id: int, *names: str) -> tuple[Any, ...]:
    row = await database.fetchrow(f"SELECT {', '.join(names)} FROM incoming_emails WHERE id = $1", email_id)
    assert row is not None
    return tuple(row)


async def test_a_refused_sync_is_shown_beside_the_job_and_retried_alone(
    client: Server, target: Receiver, worker: Worker
) -> None:
    target.statuses = [422]
    email_id = await send(client)
    failed = await until_synced(client, email_id, "failed")
    page = words_of(await read(client, f"/emails/{email_id}"))

    begun = await post_as_operator(client, f"/api/v1/emails/{email_id}/sync", 202)
    synced = await until_synced(client, email_id)

    assert (failed["processing_status"], failed["sync_error_code"]) == ("completed", "document_refused")
    assert "Completed: all files are stored. Job completed" in page
    assert "Sync failed Could not be synced: needs attention." in page
    assert (
        page.index("The target refuses this document")
        < page.index("webhook: answered 422")
        < page.index("History")
    )
    assert begun == {"sync_status": "pending", "email_id": email_id}
    assert (synced["attempt_number"], synced["sync_attempt_number"], synced["sync_error_code"]) == (
        1,
        2,
        None,
    )
    assert synced["synced_at"] > failed["completed_at"] == synced["completed_at"]
    assert [action["action"] for action in synced["actions"]] == ["sync"]
    assert len(target.messages) == 1


async def test_a_forbidden_or_impossible_retry_of_a_sync_is_explained(
    client: Server, settings: Settings, database: asyncpg.Connection
) -> None:
    (working,) = await add(database, processing_status="processing", sync_status="pending")
    (failed,) = await add(database)
    path = f"/api/v1/emails/{failed}/sync"
    headers = {"Authorization": f"Bearer {READ_TOKEN}"}
    async with client.session.post(f"{client.url}{path}", headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (403, "read_only")
    async with serving(without_target(settings), client.zendesk) as off:
        assert (await post_as_operator(off, path, 409))["code"] == "sync_off"
        assert (await post_as_operator(off, RETRIES, 409, filter={}, what="sync"))["code"] == "sync_off"

    assert (await post_as_operator(client, f"/api/v1/emails/{working}/sync", 409))["code"] == "not_finished"
    assert (await post_as_operator(client, "/api/v1/emails/99/sync", 404))["code"] == "email_not_found"
    assert await columns(database, failed, "sync_status") == ("failed",)


async def test_all_matching_syncs_are_retried_and_no_job_runs(
    res: Resources, database: asyncpg.Connection
) -> None:
    meant = [*await add(database, 12), *await add(database, 3, processing_status="failed", error_code="gone")]
    (elsewhere,) = await add(database, sync_error_code="too_large")
    (synced,) = await add(database, sync_status="synced")
    (working,) = await add(database, processing_status="queued")

    wanted = Selection(sync_error_code="document_refused")
    planned = await bulk_retry.plan(res, wanted, SYNC)
    number = await bulk_retry.start(res, wanted, 10, "ada (tests)", SYNC)
    steps = await all_steps(res, database)

    for email_id in meant:
        assert await columns(database, email_id, "sync_status", "sync_retry_count", "sync_error_code") == (
            "pending",
            0,
            None,
        )
    for email_id in (elsewhere, working):
        assert await columns(database, email_id, "sync_status") == ("failed",)
    assert await columns(database, synced, "sync_status") == ("synced",)
    jobs = await database.fetch("SELECT DISTINCT processing_status, attempt_number FROM incoming_emails")
    assert {tuple(row) for row in jobs} == {("completed", 1), ("failed", 1), ("queued", 1)}
    done = await get_retry(res.engine, number)
    assert (done.what, done.status, done.planned, done.retried) == ("sync", "done", 15, 15)
    assert (planned.number, steps) == (15, 2)
    meant_filter = Selection(sync_status="unsynced", sync_error_code="document_refused")
    assert done.filter == meant_filter, "it says all that it means"
    noted = await database.fetch("SELECT action, count(*) FROM operator_actions GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in noted] == [("sync", 15), ("sync_many", 1)]


async def test_emails_from_before_there_was_a_target_are_synced_on_request(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add(database, 3, sync_status="not_applicable", sync_error_code=None)
    await add(database, 2, processing_status="received", sync_status="not_applicable", sync_error_code=None)

    planned = await bulk_retry.plan(res, Selection(sync_status="not_applicable"), SYNC)
    await bulk_retry.start(res, Selection(sync_status="not_applicable"), 10, "ada (tests)", SYNC)
    await all_steps(res, database)

    assert planned.number == 3
    rows = await database.fetch("SELECT id FROM incoming_emails WHERE sync_status = 'pending' ORDER BY id")
    assert [row["id"] for row in rows] == ids


async def test_a_step_of_syncs_that_several_workers_claim_is_done_once(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, 40)
    number = await bulk_retry.start(res, Selection(), 10, "ada (tests)", SYNC)

    await asyncio.gather(*(bulk_retry.step(res) for _ in range(8)))

    pending = "SELECT count(*) FROM incoming_emails WHERE sync_status = 'pending'"
    assert await database.fetchval(pending) == 10
    assert (await get_retry(res.engine, number)).retried == 10


async def test_syncs_of_unfinished_jobs_cannot_be_retried(res: Resources) -> None:
    with pytest.raises(Rejected) as refused:
        await bulk_retry.start(res, Selection(status="queued"), 10, "ada (tests)", SYNC)

    assert (refused.value.status, refused.value.code) == (422, "not_finished")


async def test_many_are_synced_by_a_worker_from_the_pages(
    client: Server, target: Receiver, worker: Worker, database: asyncpg.Connection
) -> None:
    target.statuses = [422, 422, 422]
    ids = [await send(client) for _ in range(3)]
    for email_id in ids:
        await until_synced(client, email_id, "failed")
    overview = words_of(await read(client, "/"))
    plan = await read(client, "/retries/plan?what=sync&sync_status=failed")

    assert await press(client, "/retries", what="sync", sync_status="failed") == "/retries?notice=syncs_begun"
    for email_id in ids:
        await until_synced(client, email_id)

    assert "3 could not be synced. Nothing waiting." in overview
    assert "Need attention 3" in overview
    assert "3 could not be synced stored here, but missing in the target Sync them" in overview
    assert "Sync 3 e-mails?" in words_of(plan)
    assert "Syncs sync status failed" in words_of(await read(client, "/retries"))
    assert len(target.messages) == 3
    after = await client.get("/api/v1/overview")
    assert (after["state"], after["by_sync_status"]["failed"]) == ("safe", 0)


@pytest.mark.parametrize("status", ["pending", "synced", "failed", "not_applicable"])
async def test_a_list_is_filtered_by_sync_status_and_shows_both_states(
    client: Server, database: asyncpg.Connection, status: str
) -> None:
    for each in ("pending", "synced", "failed", "not_applicable"):
        await add(database, sync_status=each, subject=f"Is {each}")

    listed = await client.get(f"/api/v1/emails?sync_status={status}")
    page = words_of(await read(client, f"/emails?sync_status={status}"))

    assert [email["subject"] for email in listed["emails"]] == [f"Is {status}"]
    shown = "" if status == "not_applicable" else f"{status} "
    assert f"completed {shown}Is {status}" in page
    assert "Sync these" in page


async def test_a_pending_sync_of_a_running_job_is_not_shown_as_late(
    client: Server, database: asyncpg.Connection
) -> None:
    (email_id,) = await add(database, processing_status="processing", sync_status="pending")

    page = words_of(await read(client, f"/emails/{email_id}"))
    stats = await client.get("/api/v1/stats")

    assert "Sync pending Begins when the job has ended." in page
    assert "Sync now" not in page
    assert (stats["by_sync_status"]["pending"], stats["oldest_sync_seconds"]) == (0, None)


async def test_the_verdict_has_a_sentence_about_syncs_and_counts_no_email_twice(
    client: Server, settings: Settings, database: asyncpg.Connection
) -> None:
    await add(database, 2, processing_status="failed", error_code="gone")
    (waiting,) = await add(database, sync_status="pending")
    await database.execute(
        "UPDATE incoming_emails SET sync_begun_at = now() - interval '12 days' WHERE id = $1", waiting
    )

    overview = await client.get("/api/v1/overview")
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed'")
    safe_but = await client.get("/api/v1/overview")
    async with serving(without_target(settings), client.zendesk) as off:
        silent = await off.get("/api/v1/overview")

    day = "2 of 3 e-mails of the last 24 hours failed; all others are stored."
    of_syncs = "2 could not be synced."
    waits = "Oldest pending sync: 12 d."
    assert overview["verdict"] == f"{day} 2 need attention. {of_syncs} {waits}"
    assert (overview["need_you"], overview["state"]) == (2, "attention")
    assert safe_but["verdict"] == f"All 3 e-mails of the last 24 hours are stored. {of_syncs} {waits}"
    assert (safe_but["need_you"], safe_but["state"]) == (0, "attention")
    assert (
        silent["verdict"]
        == "All 3 e-mails of the last 24 hours are stored. None needs attention. Nothing waiting."
    )
    assert (silent["state"], silent["has_target"]) == ("safe", False)


async def test_the_age_of_a_retried_sync_counts_from_the_retry(
    res: Resources, database: asyncpg.Connection
) -> None:
    (email_id,) = await add(database)
    await database.execute(
        "UPDATE incoming_emails SET completed_at = now() - interval '1 year',"
        " sync_begun_at = now() - interval '1 year'"
    )
    async with connect(res.engine) as conn:
        await retries.retry(conn, [email_id], "ada (tests)", "sync")
        (claimed,) = await claim(conn, [SyncClaimRequest(email_id, res.settings.sync_lease)])

    assert claimed is not None
    assert claimed.age < 60


async def test_a_target_that_is_down_is_shown_and_the_process_stays_ready(
    settings: Settings, client: Server
) -> None:
    away = SecretStr("mongodb://user:hunter2@127.0.0.1:1/archive.emails?serverSelectionTimeoutMS=200")
    both = settings.model_copy(update={"sync_url": (away, *settings.sync_url)})
    async with serving(both, client.zendesk) as server:
        ready = await server.get("/readyz", 200)

        async def known() -> dict[str, dict[str, Any]] | None:
            checks = {check["name"]: check for check in (await server.get("/api/v1/checks"))["checks"]}
            return checks if checks["Sync to MongoDB"]["ok"] is not None else None

        checks = await eventually(known)

    assert ready["status"] == "ready"
    assert ready["checks"]["mongodb"]["ok"] is False
    assert ready["checks"]["mongodb"]["error"] in {"receiver_away", "TimeoutError"}, "it is not waited for"
    assert "webhook" not in ready["checks"]
    assert checks["Sync to MongoDB"]["ok"] is False
    assert "SYNC_URL" in checks["Sync to MongoDB"]["advice"]
    assert (checks["Sync to a webhook"]["ok"], checks["Sync to a webhook"]["found"][:9]) == (
        None,
        "not tried",
    )
    assert "hunter2" not in f"{ready}{checks}"


async def test_without_a_target_no_page_mentions_one(settings: Settings, zendesk: Zendesk) -> None:
    without = without_target(settings)
    async with serving(without, zendesk) as off, working(without):
        email_id = (await off.send(zendesk.payload()))["email_id"]
        await off.until(email_id, "completed")
        for path in ("/", "/emails", f"/emails/{email_id}"):
            assert "sync" not in words_of(await read(off, path)).lower(), path
