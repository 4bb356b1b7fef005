"""Reconciliations in the command line, the API, pages, metrics and alerts; and the hourly run."""

import asyncio
import json
import re
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from arq.worker import Worker

from service.alerts.condition import Condition
from service.alerts.reconciliation import find
from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.engine import connect
from service.reconcile.hourly import reconcile_hourly
from service.reconcile.run import RunOptions, reconcile
from service.resources import Resources, open_resources
from service.storage import objects
from service.worker import settings as door
from service.worker.settings import worker_settings
from tests.conftest import API_TOKEN, Client, Server, eventually, program, serving, working
from tests.support.commands import command, terminal, typed
from tests.support.files import PDF
from tests.support.processes import ARQ
from tests.support.rows import add_findings, add_many_finished, add_reconciliation
from tests.support.targets import add_synced, synced, syncing, write_documents

# ── the command


async def test_command_shows_differences_repairs_them_and_waits(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any, res: Resources
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails")
    async with serving(settings, zendesk) as client, working(settings):
        file = zendesk.add_file("a.pdf", PDF)
        ids = [(await client.send(zendesk.payload(attachments=[file])))["email_id"] for _ in range(3)]
        for email_id in ids:
            await synced(client, email_id)
    equal = await typed(settings, "reconcile")
    await documents.delete_one({"email_id": ids[0]})
    await documents.insert_one({"_id": "theirs"})
    differs = await typed(settings, "reconcile", "--since", "2020-01-01")
    async with working(settings):
        fixed = await command(settings, "reconcile", "--fix", "--wait", "--json")
        there = await documents.count_documents({"source": "holdfast"})
    listed = await typed(settings, "reconcile", "list")
    shown = await typed(settings, "reconcile", "show", "2")

    assert (equal.returncode, equal.stderr) == (0, "")
    assert equal.stdout.splitlines()[0] == "No differences found."
    assert differs.returncode == 3
    assert differs.stdout.splitlines()[:2] == [
        "1 difference found.",
        "        1 missing in the target",
    ]
    assert f"e-mail {ids[0]}, " in differs.stdout
    assert fixed.returncode == 0
    assert json.loads(fixed.stdout)["repaired"] == {"missing": 1}
    assert json.loads(fixed.stdout)["counts"] == {"missing": 1, "foreign": 1}
    assert there == 3  # because of --wait
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["3", "2", "1"]
    assert shown.stdout == differs.stdout


async def test_repair_in_another_storage_needs_force(
    settings: Settings, mongodb_server: str, documents: Any, res: Resources
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails")
    await documents.insert_many([{"_id": str(i), "email_id": i, "source": "holdfast"} for i in range(20)])

    alone = await typed(settings, "reconcile", "--force")
    refused = await typed(settings, "reconcile", "--fix")
    kept = await documents.count_documents({})
    forced = await typed(settings, "reconcile", "--fix", "--force")

    assert (alone.returncode, "need --fix" in alone.stderr) == (2, True)
    assert (refused.returncode, kept) == (1, 20)
    assert "do SYNC_URL and DATABASE_URL belong together?" in refused.stdout
    assert "add --force to `holdfast reconcile --fix`" in refused.stdout
    assert (forced.returncode, await documents.count_documents({})) == (0, 0)


async def test_file_that_cannot_be_refetched_is_named_and_the_command_fails(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with serving(settings, zendesk) as client, working(settings):
        url = zendesk.add_file("a.pdf", PDF)
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
        await client.until(email_id, "completed")
        for file in zendesk.state.files.values():
            file.faults.extend([Fault(status=410)] * 3)
        email = await client.email(email_id)
        await objects.remove(res.storage, email["attachments"][0]["object_key"])
        done = await command(settings, "reconcile", "--fix", "--wait")

    assert done.returncode == 3
    assert done.stderr.startswith(f"e-mail {email_id} could not be repaired: ")


async def test_changed_link_is_a_difference(
    settings: Settings, zendesk: Zendesk, mongodb_server: str, documents: Any
) -> None:
    settings = syncing(settings, f"{mongodb_server}/holdfast.emails")
    async with serving(settings, zendesk) as client, working(settings):
        url = zendesk.add_file("a.pdf", PDF)
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
        await synced(client, email_id)
        before = await documents.find_one({})
        await documents.update_one({}, {"$set": {"attachments.0.url": "https://evil.example/"}})
        done = await command(settings, "reconcile", "--fix", "--wait", "--json")

    assert json.loads(done.stdout)["counts"] == {"different": 1}
    assert await documents.find_one({}) == before


@pytest.mark.parametrize(
    "words", [("--since", "yesterdayish"), ("--wait",), ("--no-such",), ("show", "x"), ("show", "-1")]
)
async def test_invalid_arguments_exit_with_2(settings: Settings, words: tuple[str, ...]) -> None:
    done = await typed(settings, "reconcile", *words)

    assert (done.returncode, done.stdout) == (2, "")


async def test_failed_comparison_exits_with_1(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    away = syncing(settings, "mongodb://127.0.0.1:1/holdfast.emails", sync_seconds=0.2)
    await add_many_finished(database, 1)
    failed = await typed(away, "reconcile")
    await database.execute("UPDATE reconciliations SET status = 'running', finished_at = NULL")
    second = await typed(settings, "reconcile")
    cancelled = await typed(settings, "reconcile", "cancel", "1")
    again = await typed(settings, "reconcile", "cancel", "1")
    none = await typed(settings, "reconcile", "show", "9")

    assert failed.returncode == 1
    assert re.search("This run is failed .*(cannot be reached|no answer)", failed.stdout)
    assert (second.returncode, "is running" in second.stderr) == (1, True)
    assert (cancelled.returncode, "cancelled" in cancelled.stdout) == (0, True)
    assert (again.returncode, none.returncode) == (1, 1)


async def test_command_without_a_target_shows_its_scope_on_a_terminal(
    settings: Settings, res: Resources
) -> None:
    code, screen = await terminal(settings, "reconcile")

    assert code == 0
    assert "No differences found." in screen
    assert "none: SYNC_URL is not set" in screen


async def test_verify_reports_a_missing_worker_and_workers_run_it(
    settings: Settings, client: Client, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    async with working(settings):
        receipt = await client.send(zendesk.payload(attachments=[zendesk.add_file("a.pdf", PDF)]))
        await client.until(receipt["email_id"], "completed")
    alone = await typed(settings, "storage", "verify")
    twice = await typed(settings, "storage", "verify")
    ended = await typed(settings, "reconcile", "cancel", "1")
    async with working(settings):
        await eventually(lambda: database.fetchval("SELECT count(*) FROM workers WHERE stopped_at IS NULL"))
        done = await command(settings, "storage", "verify", "--wait", "--rate", "100")

    assert (alone.returncode, alone.stderr) == (0, "No worker is alive: start one with `holdfast worker`.\n")
    assert (twice.returncode, "A verification is running" in twice.stderr) == (1, True)
    assert ended.returncode == 0
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "No differences found."
    assert f"{len(PDF):,} bytes" in done.stdout


async def test_show_prints_all_findings_as_json_and_examples_as_text(
    settings: Settings, database: asyncpg.Connection
) -> None:
    counts = {"extra": 130, "object_missing": 4, "foreign": 1}
    number = await add_reconciliation(database, counts=counts)
    empty = await add_reconciliation(database)
    for kind, count in counts.items():
        await database.execute(
            "INSERT INTO reconciliation_findings (reconciliation_id, kind, key, detail)"
            " SELECT $1, $2, $2 || ' ' || i, '{\"document\": {\"a\": 1}}' FROM generate_series(1, $3) AS i",
            number,
            kind,
            count,
        )

    whole = (await typed(settings, "reconcile", "show", str(number), "--json")).stdout
    nothing = (await typed(settings, "reconcile", "show", str(empty), "--json")).stdout
    text = (await typed(settings, "reconcile", "show", str(number))).stdout

    run = json.loads(whole)
    assert (run["counts"], run["open"], run["next_cursor"]) == (counts, 134, None)
    assert [each["key"] for each in run["findings"]] == [
        f"{kind} {place}" for kind, count in counts.items() for place in range(1, count + 1)
    ]
    lines = [line for line in whole.splitlines() if line.startswith("    {")]
    assert [json.loads(line.removesuffix(",")) for line in lines] == run["findings"]
    assert json.loads(nothing)["findings"] == []
    examples = re.findall(r"^ {10}(\w+ \d+)(?: \(finding \d+\))?$", text, re.MULTILINE)
    assert examples == [
        *(f"extra {place}" for place in (1, 2, 3)),
        *(f"object_missing {place}" for place in (1, 2, 3)),
        "foreign 1",
    ]


# ── the hourly run


async def test_worker_reconciles_by_arqs_cron_without_using_a_job_slot(
    settings: Settings, client: Client, worker: Worker, database: asyncpg.Connection
) -> None:
    (job,) = worker.cron_jobs
    assert (job.name, job.unique) == (door.RECONCILE_TASK, True)

    async def planned() -> bool:
        return job.next_run is not None

    await eventually(planned)
    job.next_run = datetime.now(UTC)  # due now

    async def done() -> bool:
        return bool(
            await database.fetchval("SELECT true FROM reconciliations WHERE status = 'done' AND part = 0")
        )

    await eventually(done)
    assert worker.jobs_failed == 0
    assert await database.fetchval("SELECT count(*) FROM reconciliations") == 1


async def test_hourly_run_can_be_turned_off(settings: Settings) -> None:
    kind: Any = worker_settings(settings.model_copy(update={"reconcile_hours": 0}))

    assert kind.cron_jobs == []


async def test_stopping_worker_ends_its_run_at_once(
    settings: Settings, client: Client, res: Resources, database: asyncpg.Connection
) -> None:
    # The worker's other tasks wait for the lock, too, and would leave no connection to this run.
    settings = settings.model_copy(update={"shutdown_seconds": 15, "database_pool_size": 20})
    async with working(settings) as worker:

        async def started() -> bool:
            return "reconcile_is_due" in worker.ctx

        await eventually(started)
        async with res.engine.begin() as conn:  # blocks the run
            await conn.exec_driver_sql("BEGIN")
            await conn.exec_driver_sql("LOCK TABLE incoming_emails IN ACCESS EXCLUSIVE MODE")
            worker.ctx["reconcile_is_due"].set()

            async def begun() -> bool:
                return bool(await database.fetchval("SELECT count(*) FROM reconciliations"))

            await eventually(begun)
            began = asyncio.get_running_loop().time()
            stopping = asyncio.ensure_future(_stop(worker))
            await asyncio.wait({stopping}, timeout=12)
            took = asyncio.get_running_loop().time() - began
            await conn.exec_driver_sql("ROLLBACK")
        await stopping
    assert took < 10
    assert await database.fetchval("SELECT status FROM reconciliations") == "abandoned"


async def _stop(worker: Worker) -> None:
    assert worker.main_task
    worker.main_task.cancel()
    await asyncio.wait({worker.main_task})
    await door.stop(worker.ctx)


async def test_run_of_a_killed_worker_is_abandoned_and_the_next_worker_runs(
    settings: Settings, client: Client, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO reconciliations (kind, actor, fix, part, seen_at) VALUES ('verify', 'a', 'nothing', NULL, now())"
    )
    await database.execute("UPDATE reconciliations SET place = '', megabytes_per_second = 20")
    async with program(*ARQ, settings=settings) as worker:

        async def done() -> bool:
            return bool(await database.fetchval("SELECT true FROM reconciliations WHERE status = 'done'"))

        await eventually(done)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), 25) == 0


# ── API, pages and metrics


async def test_api_lists_runs_and_pages_through_findings(
    client: Client, database: asyncpg.Connection
) -> None:
    ids = [await add_reconciliation(database, counts={"missing": 5}) for _ in range(3)]
    await database.execute(
        "INSERT INTO reconciliation_findings (reconciliation_id, kind, key, detail)"
        " SELECT $1, 'missing', 'key ' || i, '{}' FROM generate_series(1, 5) AS i",
        ids[0],
    )

    first = await client.get("/api/v1/reconciliations?limit=2")
    second = await client.get(f"/api/v1/reconciliations?limit=2&cursor={first['next_cursor']}")
    run = await client.get(f"/api/v1/reconciliations/{ids[0]}?limit=3")
    rest = await client.get(f"/api/v1/reconciliations/{ids[0]}?cursor={run['next_cursor']}")
    none = await client.get("/api/v1/reconciliations/99", 404)

    assert [each["id"] for each in first["reconciliations"]] == ids[:0:-1]
    assert ([each["id"] for each in second["reconciliations"]], second["next_cursor"]) == (ids[:1], None)
    assert (run["open"], len(run["findings"])) == (5, 3)
    assert [each["key"] for each in rest["findings"]] == ["key 4", "key 5"]
    assert none["code"] == "reconciliation_not_found"


async def test_pages_show_runs_and_findings_and_escape_foreign_text(
    client: Server, database: asyncpg.Connection
) -> None:
    number = await add_reconciliation(
        database, counts={"foreign": 1, "missing": 2}, repaired={"missing": 2}, part=None
    )
    await database.execute(
        "INSERT INTO reconciliation_findings (reconciliation_id, kind, key, detail) VALUES ($1, 'foreign', $2, '{}')",
        number,
        "<script>alert(1)</script>",
    )
    headers = {"Authorization": f"Bearer {API_TOKEN}"}
    pages = []
    for path in ("/reconciliations", f"/reconciliations/{number}"):
        async with client.session.get(f"{client.url}{path}", headers=headers) as response:
            assert response.status == 200
            pages.append(await response.text())

    assert "2 missing" in pages[0]
    assert "1 foreign" in pages[0]
    assert "&lt;script&gt;alert" in pages[1]
    assert "<script>alert" not in pages[1]


async def test_page_shows_whether_an_open_difference_was_compared_again(
    client: Server, database: asyncpg.Connection
) -> None:
    number = await add_reconciliation(database, counts={"missing": 2}, part=None)
    await add_findings(database, number, "missing", "missing")
    headers = {"Authorization": f"Bearer {API_TOKEN}"}

    async def page() -> str:
        async with client.session.get(f"{client.url}/reconciliations/{number}", headers=headers) as response:
            return await response.text()

    before = await page()
    await database.execute("UPDATE reconciliation_findings SET closed_at = now()")
    after = await page()

    assert "2 differences not repaired." in before
    assert "2 differences not repaired; later runs have checked them again." in after
    assert (await client.get(f"/api/v1/reconciliations/{number}"))["is_open"] is False


async def test_metrics_count_open_differences_and_the_newest_finished_run(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_findings(database, await add_reconciliation(database, counts={"extra": 7}), *["extra"] * 7)
    await add_reconciliation(
        database, counts={"missing": 1}, repaired={"missing": 1}, since=datetime.now(UTC)
    )
    async with client.session.get(f"{client.url}/metrics") as response:
        text = await response.text()

    assert 'holdfast_reconciliation_findings{kind="extra"} 7.0' in text
    assert 'holdfast_reconciliation_findings{kind="missing"} 0.0' in text
    assert "holdfast_reconciliation_age_seconds 0." in text


# ── alerts


async def found(res: Resources, hours: int = 24) -> dict[str, Condition]:
    async with connect(res.engine) as conn:
        return {each.key: each for each in await find(conn, hours)}


async def test_open_differences_cause_an_alert(res: Resources, database: asyncpg.Connection) -> None:
    nothing = await found(res)
    run_id = await add_reconciliation(database)
    await add_findings(database, run_id, "foreign", "unclaimed")
    harmless = await found(res)
    await add_findings(database, run_id, "extra", "extra", "object_missing", "object_unreadable")
    finding = (await found(res))[""]

    assert (nothing, harmless) == ({}, {})
    assert (finding.cause, finding.count) == ("reconciliation", 4)
    assert finding.detail.startswith("4 differences between")
    assert (
        "2 in the target without an e-mail, 1 missing in the storage, 1 unreadable in the storage"
        in finding.detail
    )


async def test_old_newer_document_causes_an_alert_until_fix_removes_it(
    settings: Settings, mongodb_server: str, documents: Any, res: Resources, database: asyncpg.Connection
) -> None:
    """A full run finds it; an hourly run does not compare it."""
    async with open_resources(syncing(settings, f"{mongodb_server}/holdfast.emails")) as there:
        old, new = await add_synced(there, database, 2)
        await database.execute(
            "UPDATE incoming_emails SET received_at = now() - interval '3 days' WHERE id = $1", old
        )
        await documents.update_many({}, {"$set": {"version": 9}})
        await documents.insert_one({"_id": "x", "source": "holdfast", "email_id": new})
        await reconcile(there, RunOptions("ada"), lambda _share, _seen: None)
        by_whole = await found(res)
        await documents.delete_many({"email_id": new})
        await write_documents(there, [new])
        await reconcile_hourly(there)
        by_hour = await found(res)
        await reconcile(there, RunOptions("ada", fix="all"), lambda _share, _seen: None)

    assert "2 newer in the target than in Holdfast, 1 in the target without an e-mail" in by_whole[""].detail
    # Only a full run detects that the document without an e-mail is gone.
    assert (
        ": 1 newer in the target than in Holdfast, 1 in the target without an e-mail." in by_hour[""].detail
    )
    assert await found(res) == {}


async def test_alert_says_at_least_if_not_all_findings_are_saved(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_findings(database, await add_reconciliation(database), *["missing"] * 2_000)

    assert (await found(res))[""].detail.startswith("At least 2,000 differences between")


async def test_no_run_for_hours_causes_an_alert_if_workers_run(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add_reconciliation(database)
    await database.execute("UPDATE reconciliations SET finished_at = now() - interval '4 h'")
    no_worker = await found(res)
    await database.execute(
        "INSERT INTO workers (name, pid, version, started_at) VALUES ('w', 1, '1', now() - interval '5 h')"
    )
    late, off = await found(res), await found(res, 0)
    await database.execute(
        "INSERT INTO reconciliations (kind, actor, fix, started_at, emails) VALUES ('reconcile', 'ada', 'all', $1, 9)",
        datetime.now(UTC) - timedelta(hours=4),
    )
    long_run = await found(res)
    await database.execute("UPDATE reconciliations SET status = 'failed' WHERE status = 'running'")
    broke_off = await found(res)
    await add_reconciliation(database)
    again = await found(res)

    assert (no_worker, off, long_run, again) == ({}, {}, {}, {})
    assert [*broke_off] == ["late"]
    assert "4 h" in late["late"].detail
