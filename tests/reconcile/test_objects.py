"""Missing and damaged objects are found and refetched, on a disk and in a bucket."""

import asyncio
import os
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import asyncpg
import pytest

from service.config.settings import Settings
from service.jobs.refetch import reopen
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.engine import run
from service.queries.reconciliations import get_reconciliation
from service.reconcile import verify
from service.reconcile.run import RunOptions, reconcile
from service.resources import Resources, open_resources
from service.storage.objects import put
from tests.conftest import eventually, serving, working
from tests.support.files import PDF
from tests.support.places import Place, chunks, key
from tests.support.reconciling import (
    TXT,
    compare,
    downloads,
    store_two_files,
    until_done,
)
from tests.support.s3 import Bucket


async def test_missing_object_is_refetched_and_its_siblings_are_not(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await store_two_files(stored, zendesk)
    await place.remove(key(PDF))
    asked = downloads(zendesk)

    looked = await compare(there)
    fixed = await compare(there, fix="all")
    email = await until_done(stored, zendesk, email_id)
    last = await compare(there)

    assert (looked.counts, looked.open, looked.objects) == ({"object_missing": 1}, 1, 1)
    assert (fixed.counts, fixed.open) == ({"object_missing": 1}, 0)
    (finding,) = fixed.findings
    assert (finding.email_id, finding.key, finding.repair) == (email_id, key(PDF), "fetched again")
    assert email["processing_status"] == "completed"
    assert downloads(zendesk) - asked == 1
    assert (last.counts, last.objects) == ({}, 2)
    assert (await place.objects())[key(PDF)] == PDF


@pytest.mark.parametrize("how", ["all", "since", "verify"])
async def test_missing_bucket_is_an_error_and_not_the_loss_of_all_files(
    settings: Settings, zendesk: Zendesk, bucket: Bucket, database: asyncpg.Connection, how: str
) -> None:
    await store_two_files(settings.model_copy(update={"storage_url": f"s3://{bucket.name}"}), zendesk)
    since = datetime(2020, 1, 1, tzinfo=UTC) if how == "since" else None
    elsewhere = settings.model_copy(update={"storage_url": f"s3://{bucket.name}-of-another-name"})
    async with open_resources(elsewhere) as res:
        if how == "verify":
            run_id = await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=True)
            await verify.step(res)
        else:
            run_id = await reconcile(res, RunOptions("ada (tests)", since, "all"), lambda _share, _seen: None)
        run = await get_reconciliation(res.engine, run_id)

    assert (run.status, run.counts) == ("running" if how == "verify" else "failed", {})
    assert run.error_code == "storage_unavailable"
    assert await database.fetchval("SELECT count(*) FROM attachments WHERE status = 'stored'") == 2


async def test_missing_bucket_is_an_error_even_if_nothing_was_ever_stored(
    settings: Settings, res: Resources, bucket: Bucket
) -> None:
    """On a disk the directory is missing then, without an error."""
    nowhere = settings.model_copy(update={"storage_url": f"s3://{bucket.name}-of-another-name"})
    async with open_resources(nowhere) as opened:
        run_id = await reconcile(opened, RunOptions("ada (tests)"), lambda _share, _seen: None)
    on_disk = await compare(res)

    found = await get_reconciliation(res.engine, run_id)
    assert (found.status, found.error_code) == ("failed", "storage_unavailable")
    assert on_disk.counts == {}


@pytest.mark.parametrize("how", ["all", "since", "verify"])
async def test_another_storage_is_not_taken_for_the_loss_of_all_files(
    there: Resources, database: asyncpg.Connection, how: str
) -> None:
    """With a typing error in STORAGE_URL, `--fix` would refetch everything, and expired addresses would fail.

    Some objects may exist there: those that were stored since then.
    """
    await asyncio.gather(*(put(there.storage, chunks(str(number).encode()), None) for number in range(1, 21)))
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status)"
        " SELECT n::text, 'completed' FROM generate_series(1, 200) AS n"
    )
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
        " SELECT id, 0, 'https://x', 'stored', sha256, length(id::text),"
        " 'sha256/' || left(sha256, 2) || '/' || substr(sha256, 3)"
        " FROM incoming_emails, LATERAL (SELECT encode(sha256(id::text::bytea), 'hex') AS sha256) AS hash"
    )

    if how == "verify":
        run_id = await verify.begin(there, actor="ada (tests)", rate=1000, since=None, fix=True)
        while await verify.step(there):
            pass
    else:
        since = datetime(2020, 1, 1, tzinfo=UTC) if how == "since" else None
        wish = RunOptions("ada (tests)", fix="all", since=since)
        run_id = await reconcile(there, wish, lambda _share, _seen: None)

    found = await get_reconciliation(there.engine, run_id)
    assert (found.status, found.error_code) == ("failed", "storage_is_another")
    assert found.repaired == {}
    assert await database.fetchval("SELECT count(*) FROM attachments WHERE status = 'stored'") == 200
    if how == "all":
        forced = await compare(there, fix="all", force=True)
        assert (forced.counts, forced.open) == ({"object_missing": 180}, 0)


async def test_truncated_object_is_found_and_replaced(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await store_two_files(stored, zendesk)
    await place.place(key(PDF), PDF[:1000])

    fixed = await compare(there, fix="all")
    await until_done(stored, zendesk, email_id)

    (finding,) = fixed.findings
    assert (finding.kind, finding.detail["size"], finding.detail["expected_size"]) == (
        "object_damaged",
        1000,
        len(PDF),
    )
    assert (await place.objects())[key(PDF)] == PDF
    assert (await compare(there)).counts == {}


async def test_file_that_cannot_be_refetched_fails_with_a_reason(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    url = zendesk.add_file("a.pdf", PDF)
    async with serving(stored, zendesk) as client, working(stored):
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
        await client.until(email_id, "completed")
    await place.remove(key(PDF))
    zendesk.file(url).faults.extend([Fault(status=404)] * 9)

    await compare(there, fix="all")
    email = await until_done(stored, zendesk, email_id)

    assert (email["processing_status"], email["attachments"][0]["status"]) == ("failed", "failed")
    assert email["attachments"][0]["error_code"]
    assert (await compare(there)).counts == {}

    # If the object comes back in any way, it is used before any download.
    assert email["attachments"][0]["sha256"] == sha256(PDF).hexdigest()
    asked = downloads(zendesk)
    await place.place(key(PDF), PDF)
    async with serving(stored, zendesk) as client, working(stored):
        await client.post(f"/api/v1/emails/{email_id}/retry")
        email = await client.until(email_id, "completed", "failed")
    assert (email["processing_status"], downloads(zendesk)) == ("completed", asked)
    assert email["attachments"][0].items() >= {"status": "stored", "error": None, "size": len(PDF)}.items()


async def test_object_that_comes_back_damaged_is_not_used(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await store_two_files(stored, zendesk)
    await place.remove(key(PDF))
    await compare(there, fix="all")
    await place.place(key(PDF), PDF[:1000])

    email = await until_done(stored, zendesk, email_id)

    assert email["processing_status"] == "completed"
    assert (await place.objects())[key(PDF)] == PDF


async def test_email_that_ends_while_its_file_is_reopened_keeps_its_file(
    res: Resources, database: asyncpg.Connection, database_url: str
) -> None:
    """Its job is not queued again, so a reopened file would never be fetched."""
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status) VALUES ('1', 'completed'), ('2', 'queued')"
    )
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
        " SELECT id, 0, 'https://x', 'stored', 'aa', 1, 'k' FROM incoming_emails"
    )
    holder = await asyncpg.connect(database_url)
    await holder.execute("BEGIN; SELECT FROM incoming_emails WHERE id = 1 FOR UPDATE")
    opening = asyncio.create_task(run(res.engine, 30, lambda conn: reopen(conn, "aa", "ada (tests)")))

    async def waits() -> bool:
        return bool(
            await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        )

    await eventually(waits)
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed' WHERE id = 2")
    await holder.close()
    opened, jobs = await opening

    assert (opened, [job.email_id for job in jobs]) == (1, [1])
    rows = await database.fetch("SELECT email_id, status FROM attachments ORDER BY email_id")
    assert [tuple(row) for row in rows] == [(1, "pending"), (2, "stored")]


async def test_since_compares_only_files_of_later_emails(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place, database: asyncpg.Connection
) -> None:
    email_id = await store_two_files(stored, zendesk)
    received_at = await database.fetchval("SELECT received_at FROM incoming_emails WHERE id = $1", email_id)
    await place.remove(key(PDF))

    run = await compare(there, since=received_at)

    assert (run.counts, run.objects) == ({"object_missing": 1}, 2)


async def test_old_object_without_an_email_is_reported_and_stays(
    settings: Settings, zendesk: Zendesk, res: Resources, tmp_path: Path
) -> None:
    await store_two_files(settings, zendesk)
    young, old = [await put(res.storage, chunks(content), None) for content in (b"young", b"old")]
    two_days_ago = time.time() - 2 * 86400
    await asyncio.to_thread(os.utime, tmp_path / "objects" / old.key, (two_days_ago, two_days_ago))

    run = await compare(res, fix="all")

    assert (run.counts, run.open) == ({"unclaimed": 1}, 0)
    assert [each.key for each in run.findings] == [old.key]
    assert await asyncio.to_thread((tmp_path / "objects" / young.key).exists)
    assert await asyncio.to_thread((tmp_path / "objects" / old.key).exists)


@pytest.mark.parametrize(
    ("hours", "told"),
    [(None, True), (1, True), (3, False)],
    ids=["none", "received later", "received before"],
)
async def test_object_that_no_unfinished_email_can_own_is_reported_before_it_is_old(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    tmp_path: Path,
    database: asyncpg.Connection,
    hours: int | None,
    *,
    told: bool,
) -> None:
    """After a restore, objects that are newer than the dump have no e-mails."""
    await store_two_files(settings, zendesk)
    later = await put(res.storage, chunks(b"came after the dump"), None)
    two_hours_ago = time.time() - 2 * 3600
    await asyncio.to_thread(os.utime, tmp_path / "objects" / later.key, (two_hours_ago, two_hours_ago))
    if hours:
        await database.execute(
            "INSERT INTO incoming_emails (zendesk_ticket_id, received_at) VALUES ('1', now() - $1 * interval '1 h')",
            hours,
        )

    run = await compare(res)

    assert run.counts == ({"unclaimed": 1} if told else {})


@pytest.mark.parametrize("since", [None, datetime(2020, 1, 1, tzinfo=UTC)], ids=["all", "since"])
async def test_content_that_many_emails_share_is_compared_once(
    since: datetime | None,
    there: Resources,
    stored: Settings,
    zendesk: Zendesk,
    place: Place,
    database: asyncpg.Connection,
) -> None:
    email_id = await store_two_files(stored, zendesk)
    await database.execute(
        """
        WITH new AS (
            INSERT INTO incoming_emails (zendesk_ticket_id, processing_status)
            SELECT '1', 'completed' FROM generate_series(1, 2100) RETURNING id
        )
        INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)
        SELECT new.id, position, source_url, status, sha256, size, object_key FROM new, attachments
        WHERE email_id = $1
        """,
        email_id,
    )
    await place.remove(key(TXT))

    found = await compare(there, fix="all", since=since)

    assert found.counts == {"object_missing": 1}
    opened = "SELECT count(*) FROM attachments WHERE status = 'pending'"
    assert await database.fetchval(opened) == 100  # the newest e-mail; its refetch restores the file of all


async def test_if_the_newest_email_cannot_refetch_the_others_are_tried(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Their files keep the hash of the lost content."""
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status)"
        " SELECT n::text, CASE WHEN n > 50 THEN 'failed' ELSE 'completed' END FROM generate_series(1, 160) AS n"
    )
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
        " SELECT id, 0, 'https://x', CASE WHEN id > 50 THEN 'failed' ELSE 'stored' END, 'aa', 1, 'k' FROM incoming_emails"
    )

    opened, jobs = await run(res.engine, 30, lambda conn: reopen(conn, "aa", "ada (tests)"))

    assert (opened, len(jobs)) == (50, 50)


async def test_unmounted_volume_is_not_taken_for_the_loss_of_all_files(
    settings: Settings, zendesk: Zendesk, res: Resources, tmp_path: Path
) -> None:
    await store_two_files(settings, zendesk)
    await asyncio.to_thread((tmp_path / "objects").rename, tmp_path / "elsewhere")

    run_id = await reconcile(res, RunOptions("ada (tests)", fix="all"), lambda _share, _seen: None)
    run = await get_reconciliation(res.engine, run_id)

    assert (run.status, run.error_code, run.counts) == ("failed", "storage_unavailable", {})
