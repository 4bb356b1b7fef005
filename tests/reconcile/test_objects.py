"""Objects against what is on record: what is gone or damaged is found, and fetched again; on a disk and in a bucket."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from service.config.settings import Settings
from service.jobs.refetch import reopen
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.engine import run
from service.queries.reconciliations import ReconciliationDetail, get_reconciliation
from service.reconcile import verify
from service.reconcile.calls import RateLimit
from service.reconcile.contents import Content
from service.reconcile.repair import keep_damaged
from service.reconcile.run import RunOptions, cancel, reconcile
from service.resources import Resources, open_resources
from service.storage.objects import put
from tests.conftest import Client, eventually, serving, working
from tests.support.files import PDF
from tests.support.places import Directory, InBucket, Place, chunks, key
from tests.support.s3 import Bucket, freezes, refuses
from tests.support.s3 import Fault as S3Fault

TXT = b"Dear all,\n" * 30
BAD = b"%PDF-1.7\n" + bytes(range(255, -1, -1)) * 400


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return Directory(tmp_path / "objects")
    bucket: Bucket = request.getfixturevalue("bucket")
    return InBucket(bucket)


@pytest.fixture
def stored(settings: Settings, place: Place) -> Settings:
    return settings.model_copy(update={"storage_url": place.url})


@pytest.fixture
async def there(stored: Settings, res: Resources) -> AsyncIterator[Resources]:
    async with open_resources(stored) as opened:
        yield opened


async def sent(settings: Settings, zendesk: Zendesk) -> int:
    """Take in an e-mail with two files, and store them."""
    async with serving(settings, zendesk) as client, working(settings):
        files = [zendesk.add_file("a.pdf", PDF), zendesk.add_file("b.txt", TXT)]
        receipt = await client.send(zendesk.payload(attachments=files))
        await client.until(receipt["email_id"], "completed")
        return int(receipt["email_id"])


def downloads(zendesk: Zendesk) -> int:
    return sum(file.downloads for file in zendesk.desk.files.values())


async def again(settings: Settings, zendesk: Zendesk, email_id: int) -> dict[str, Any]:
    """Let workers do what was begun."""
    async with serving(settings, zendesk) as client, working(settings):
        return await client.until(email_id, "completed", "failed")


async def compare(res: Resources, **options: Any) -> ReconciliationDetail:
    run_id = await reconcile(res, RunOptions("ada (tests)", **options), lambda _share, _seen: None)
    found = await get_reconciliation(res.engine, run_id)
    assert found.status == "done", found.error
    return found


async def verified(
    res: Resources, *, fix: bool = False, since: datetime | None = None
) -> ReconciliationDetail:
    run_id = await verify.begin(res, actor="ada (tests)", rate=1000, since=since, fix=fix)
    while await verify.step(res):
        pass
    found = await get_reconciliation(res.engine, run_id)
    assert found.status == "done", found
    return found


async def make_unreadable(place: Place, *contents: bytes) -> None:
    """Leave objects there, of which nothing can be had."""
    names = tuple(map(key, contents))
    if isinstance(place, Directory):
        for name in names:
            await place.remove(name)
            await asyncio.to_thread((place.root / name).mkdir)  # root may read whatever is a file
        return
    assert isinstance(place, InBucket)

    async def archived(bucket: Bucket, request: web.Request) -> web.StreamResponse:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
        answer = refuses(403, "InvalidObjectState") if request.path.endswith(names) else Bucket.forward
        return await answer(bucket, request)

    place.bucket.faults.append(S3Fault(archived, ("get",), times=math.inf))


async def test_an_object_that_is_gone_is_found_and_fetched_again_and_its_siblings_are_not(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await sent(stored, zendesk)
    await place.remove(key(PDF))
    asked = downloads(zendesk)

    looked = await compare(there)
    fixed = await compare(there, fix="all")
    email = await again(stored, zendesk, email_id)
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
async def test_a_bucket_that_is_not_there_is_an_error_and_not_the_loss_of_all_files(
    settings: Settings, zendesk: Zendesk, bucket: Bucket, database: asyncpg.Connection, how: str
) -> None:
    await sent(settings.model_copy(update={"storage_url": f"s3://{bucket.name}"}), zendesk)
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


async def test_a_bucket_that_is_not_there_is_an_error_also_where_nothing_was_ever_stored(
    settings: Settings, res: Resources, bucket: Bucket
) -> None:
    """On a disk there is no directory then."""
    nowhere = settings.model_copy(update={"storage_url": f"s3://{bucket.name}-of-another-name"})
    async with open_resources(nowhere) as opened:
        run_id = await reconcile(opened, RunOptions("ada (tests)"), lambda _share, _seen: None)
    on_disk = await compare(res)

    found = await get_reconciliation(res.engine, run_id)
    assert (found.status, found.error_code) == ("failed", "storage_unavailable")
    assert on_disk.counts == {}


@pytest.mark.parametrize("how", ["all", "since", "verify"])
async def test_another_place_is_not_taken_for_the_loss_of_all_files(
    there: Resources, database: asyncpg.Connection, how: str
) -> None:
    """A typing error in STORAGE_URL, and `--fix`, would have everything fetched anew of which the addresses expired.

    A few may be there: those that came since.
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
        options = RunOptions("ada (tests)", fix="all", since=since)
        run_id = await reconcile(there, options, lambda _share, _seen: None)

    found = await get_reconciliation(there.engine, run_id)
    assert (found.status, found.error_code) == ("failed", "storage_is_another")
    assert found.repaired == {}
    assert await database.fetchval("SELECT count(*) FROM attachments WHERE status = 'stored'") == 200
    if how == "all":
        forced = await compare(there, fix="all", force=True)
        assert (forced.counts, forced.open) == ({"object_missing": 180}, 0)


async def test_a_truncated_object_is_found_and_replaced(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await sent(stored, zendesk)
    await place.place(key(PDF), PDF[:1000])

    fixed = await compare(there, fix="all")
    await again(stored, zendesk, email_id)

    (finding,) = fixed.findings
    assert (finding.kind, finding.detail["size"], finding.detail["expected_size"]) == (
        "object_damaged",
        1000,
        len(PDF),
    )
    assert (await place.objects())[key(PDF)] == PDF
    assert (await compare(there)).counts == {}


async def test_what_cannot_be_fetched_again_fails_with_a_reason(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    url = zendesk.add_file("a.pdf", PDF)
    async with serving(stored, zendesk) as client, working(stored):
        email_id = (await client.send(zendesk.payload(attachments=[url])))["email_id"]
        await client.until(email_id, "completed")
    await place.remove(key(PDF))
    zendesk.file(url).faults.extend([Fault(status=404)] * 9)

    await compare(there, fix="all")
    email = await again(stored, zendesk, email_id)

    assert (email["processing_status"], email["attachments"][0]["status"]) == ("failed", "failed")
    assert email["attachments"][0]["error_code"]
    assert (await compare(there)).counts == {}

    # Whatever brings it back, it is known, and is taken before anybody is asked for it.
    assert email["attachments"][0]["sha256"] == sha256(PDF).hexdigest()
    asked = downloads(zendesk)
    await place.place(key(PDF), PDF)
    async with serving(stored, zendesk) as client, working(stored):
        await client.post(f"/api/v1/emails/{email_id}/retry")
        email = await client.until(email_id, "completed", "failed")
    assert (email["processing_status"], downloads(zendesk)) == ("completed", asked)
    assert email["attachments"][0].items() >= {"status": "stored", "error": None, "size": len(PDF)}.items()


async def test_what_came_back_damaged_is_not_taken_for_what_was_lost(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await sent(stored, zendesk)
    await place.remove(key(PDF))
    await compare(there, fix="all")
    await place.place(key(PDF), PDF[:1000])

    email = await again(stored, zendesk, email_id)

    assert email["processing_status"] == "completed"
    assert (await place.objects())[key(PDF)] == PDF


async def test_an_email_that_ends_while_its_content_is_opened_keeps_its_file(
    res: Resources, database: asyncpg.Connection, database_url: str
) -> None:
    """It is not queued again any more, and nobody would fetch what was opened."""
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


async def test_since_looks_at_the_files_of_what_came_since_then(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place, database: asyncpg.Connection
) -> None:
    email_id = await sent(stored, zendesk)
    received_at = await database.fetchval("SELECT received_at FROM incoming_emails WHERE id = $1", email_id)
    await place.remove(key(PDF))

    run = await compare(there, since=received_at)

    assert (run.counts, run.objects) == ({"object_missing": 1}, 2)


async def test_an_old_object_that_no_email_has_is_told_of_and_stays(
    settings: Settings, zendesk: Zendesk, res: Resources, tmp_path: Path
) -> None:
    await sent(settings, zendesk)
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
async def test_an_object_that_no_unfinished_email_can_be_storing_is_told_of_before_it_is_old(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    tmp_path: Path,
    database: asyncpg.Connection,
    hours: int | None,
    *,
    told: bool,
) -> None:
    """As after a restore: the objects came after the dump, and their e-mails are not on record."""
    await sent(settings, zendesk)
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
async def test_a_content_that_many_emails_have_is_looked_at_once(
    since: datetime | None,
    there: Resources,
    stored: Settings,
    zendesk: Zendesk,
    place: Place,
    database: asyncpg.Connection,
) -> None:
    email_id = await sent(stored, zendesk)
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
    assert (
        await database.fetchval(opened) == 100
    )  # the newest; if one of them brings it back, all have it again


async def test_where_the_newest_could_not_have_it_again_the_others_are_asked(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Of those it is known still what they had."""
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


async def test_a_volume_that_is_not_mounted_is_no_loss_of_all_files(
    settings: Settings, zendesk: Zendesk, res: Resources, tmp_path: Path
) -> None:
    await sent(settings, zendesk)
    await asyncio.to_thread((tmp_path / "objects").rename, tmp_path / "elsewhere")

    run_id = await reconcile(res, RunOptions("ada (tests)", fix="all"), lambda _share, _seen: None)
    run = await get_reconciliation(res.engine, run_id)

    assert (run.status, run.error_code, run.counts) == ("failed", "storage_unavailable", {})


async def test_verification_finds_bytes_that_are_not_those_of_their_name_and_they_are_fetched_again(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await sent(stored, zendesk)
    await place.place(key(PDF), BAD)

    compared = await compare(there)
    looked = await verified(there)
    fixed = await verified(there, fix=True)
    aside = await place.objects()
    email = await again(stored, zendesk, email_id)
    last = await verified(there)

    assert compared.counts == {}  # the size is right
    assert (looked.counts, looked.open, looked.objects) == ({"object_damaged": 1}, 1, 2)
    assert looked.bytes == len(PDF) + len(TXT)
    (finding,) = fixed.findings
    assert (finding.repair, finding.detail["kept_as"]) == ("fetched again", key(BAD))
    assert key(PDF) not in aside
    assert aside[key(BAD)] == BAD
    assert email["processing_status"] == "completed"
    assert (await place.objects())[key(PDF)] == PDF
    assert last.counts == {}


async def test_verification_finds_what_is_gone_and_what_is_truncated(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await sent(stored, zendesk)
    await place.remove(key(PDF))
    await place.place(key(TXT), TXT[:-1])

    fixed = await verified(there, fix=True)
    await again(stored, zendesk, email_id)

    assert fixed.counts == {"object_missing": 1, "object_damaged": 1}
    assert fixed.open == 0
    assert (await verified(there)).counts == {}


async def test_what_cannot_be_read_is_told_of_and_all_behind_it_is_verified(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    """As with an object in an archive, a key of which somebody took the right away, or a bad sector."""
    email_id = await sent(stored, zendesk)
    await place.place(key(PDF), BAD)
    await make_unreadable(place, TXT)

    run = await verified(there, fix=True)

    assert run.counts == {"object_damaged": 1, "object_unreadable": 1}
    assert (run.repaired, run.open) == ({"object_damaged": 1}, 1)
    (finding,) = [each for each in run.findings if each.kind == "object_unreadable"]
    assert (finding.key, finding.email_id, finding.repair) == (key(TXT), email_id, None)
    assert finding.detail["reason"].startswith("storage: ")


async def test_where_nothing_can_be_read_once_more_is_tried_before_that_is_told(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place, database: asyncpg.Connection
) -> None:
    await sent(stored, zendesk)
    await make_unreadable(place, PDF, TXT)

    run_id = await verify.begin(there, actor="ada (tests)", rate=1000, since=None, fix=True)
    await verify.step(there)
    first = await get_reconciliation(there.engine, run_id)
    await database.execute("UPDATE reconciliations SET next_at = now()")
    while await verify.step(there):
        pass
    last = await get_reconciliation(there.engine, run_id)

    assert (first.status, first.error_code, first.counts) == ("running", "object_unreadable", {})
    assert (last.status, last.error_code, last.counts) == ("done", None, {"object_unreadable": 2})


async def test_a_damaged_content_of_two_files_is_set_aside_once(
    res: Resources, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, tmp_path: Path
) -> None:
    email_id = await sent(settings, zendesk)
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
        " SELECT email_id, 2, source_url, status, sha256, size, object_key FROM attachments WHERE position = 0"
    )
    there = Directory(tmp_path / "objects")
    await there.place(key(PDF), BAD)

    run = await verified(res, fix=True, since=datetime(2020, 1, 1, tzinfo=UTC))

    assert (run.counts, run.repaired, run.objects) == ({"object_damaged": 1}, {"object_damaged": 1}, 3)
    (finding,) = run.findings
    assert (finding.email_id, finding.repair) == (email_id, "fetched again")
    assert finding.detail["kept_as"] == key(BAD)


async def test_what_may_not_be_removed_stays_and_all_behind_it_is_put_right(
    settings: Settings, zendesk: Zendesk, bucket: Bucket
) -> None:
    there = InBucket(bucket)
    settings = settings.model_copy(update={"storage_url": there.url})
    await sent(settings, zendesk)
    await there.place(key(PDF), BAD)
    await there.remove(key(TXT))
    bucket.faults.append(S3Fault(refuses(403, "AccessDenied"), ("post", "delete"), times=math.inf))

    async with open_resources(settings) as res:
        run = await verified(res, fix=True)

    assert run.counts == {"object_damaged": 1, "object_missing": 1}
    assert run.repaired == {"object_missing": 1}
    (finding,) = [each for each in run.findings if each.kind == "object_damaged"]
    assert finding.detail["kept_as"] == key(BAD)
    assert "AccessDenied" in finding.detail["reason"]
    assert await there.objects() == {key(PDF): BAD, key(BAD): BAD}


@pytest.mark.parametrize("is_removed", [True, False])
async def test_where_a_damaged_object_is_kept_is_on_record_before_it_is_removed(
    settings: Settings, zendesk: Zendesk, bucket: Bucket, database: asyncpg.Connection, *, is_removed: bool
) -> None:
    """A worker is killed while the bucket removes it, or before."""
    there = InBucket(bucket)
    settings = settings.model_copy(update={"storage_url": there.url})
    await sent(settings, zendesk)
    await there.place(key(PDF), BAD)
    bucket.faults.append(S3Fault(freezes, ("post", "delete")))

    async with open_resources(settings) as res:
        run_id = await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=True)
        killed = asyncio.ensure_future(verify.step(res))
        await bucket.frozen.wait()
        noted = await get_reconciliation(res.engine, run_id)
        killed.cancel()
        await asyncio.wait({killed})
        if is_removed:
            await there.remove(key(PDF))
        await database.execute("UPDATE reconciliations SET next_at = now()")
        while await verify.step(res):
            pass
        run = await get_reconciliation(res.engine, run_id)

    assert [(each.detail["kept_as"], each.repair) for each in noted.findings] == [(key(BAD), None)]
    assert (run.status, run.counts, run.open) == ("done", {"object_damaged": 1}, 0)
    assert [(each.detail["kept_as"], each.repair) for each in run.findings] == [(key(BAD), "fetched again")]
    assert await there.objects() == {key(TXT): TXT, key(BAD): BAD}


async def test_a_good_object_is_never_set_aside(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    """It was damaged when it was read, and put anew before it was to be taken away."""
    await sent(stored, zendesk)
    before = await place.objects()
    content = Content(key(PDF).replace("sha256/", "").replace("/", ""), len(PDF), key(PDF), 1)

    assert await keep_damaged(there, content) is None

    assert await place.objects() == before


async def test_a_killed_worker_costs_a_verification_one_step(
    res: Resources,
    settings: Settings,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await sent(settings, zendesk)
    monkeypatch.setattr(verify, "STEP_CONTENTS", 1)
    run_id = await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=False)
    await verify.step(res)
    # Another one takes a step, and dies.
    await database.execute("UPDATE reconciliations SET next_at = now() + interval '60 s'")
    waits = await verify.step(res)
    await database.execute("UPDATE reconciliations SET next_at = now()")
    while await verify.step(res):
        pass

    assert not waits
    run = await get_reconciliation(res.engine, run_id)
    assert (run.status, run.objects, run.bytes) == ("done", 2, len(PDF) + len(TXT))


async def test_several_workers_verify_each_object_once(
    res: Resources, settings: Settings, zendesk: Zendesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sent(settings, zendesk)
    monkeypatch.setattr(verify, "STEP_CONTENTS", 1)
    run_id = await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=False)

    async def work() -> None:
        while (await get_reconciliation(res.engine, run_id)).status == "running":
            await verify.step(res)

    await asyncio.gather(*(work() for _ in range(4)))

    assert (await get_reconciliation(res.engine, run_id)).objects == 2


async def test_a_verification_keeps_to_its_rate_and_can_be_cancelled(
    res: Resources, settings: Settings, zendesk: Zendesk, client: Client
) -> None:
    large = zendesk.add_file("large.bin", b"x" * 5_000_000)
    async with working(settings):
        receipt = await client.send(zendesk.payload(attachments=[large]))
        await client.until(receipt["email_id"], "completed")
        run_id = await verify.begin(res, actor="ada (tests)", rate=1, since=None, fix=False)

        async def taken() -> bool:
            seen = "SELECT seen_at > started_at FROM reconciliations"
            async with res.engine.connect() as conn:
                return bool((await conn.exec_driver_sql(seen)).scalar_one())

        await eventually(taken)
        await cancel(res, run_id, "bob (tests)")

    run = await get_reconciliation(res.engine, run_id)
    assert (run.status, run.objects) == ("cancelled", 0)


async def test_a_pace_lets_no_more_pass_than_was_asked_for() -> None:
    pace = RateLimit(1_000_000)
    began = time.monotonic()

    await asyncio.gather(*(pace.spend(50_000) for _ in range(5)))

    assert 0.19 < time.monotonic() - began < 2
