"""A verification reads every stored object and repairs damaged ones."""

import asyncio
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.queries.reconciliations import get_reconciliation
from service.reconcile import verify
from service.reconcile.calls import RateLimit
from service.reconcile.contents import Content
from service.reconcile.repair import keep_damaged
from service.reconcile.run import cancel
from service.resources import Resources, open_resources
from tests.conftest import Client, eventually, working
from tests.support.files import PDF
from tests.support.places import Directory, InBucket, Place, key
from tests.support.reconciling import (
    BAD,
    TXT,
    compare,
    make_unreadable,
    store_two_files,
    until_done,
    verify_all,
)
from tests.support.s3 import Bucket, freezes, refuses
from tests.support.s3 import Fault as S3Fault


async def test_verification_finds_wrong_bytes_and_refetches_them(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await store_two_files(stored, zendesk)
    await place.place(key(PDF), BAD)

    compared = await compare(there)
    looked = await verify_all(there)
    fixed = await verify_all(there, fix=True)
    aside = await place.objects()
    email = await until_done(stored, zendesk, email_id)
    last = await verify_all(there)

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


async def test_verification_finds_missing_and_truncated_objects(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    email_id = await store_two_files(stored, zendesk)
    await place.remove(key(PDF))
    await place.place(key(TXT), TXT[:-1])

    fixed = await verify_all(there, fix=True)
    await until_done(stored, zendesk, email_id)

    assert fixed.counts == {"object_missing": 1, "object_damaged": 1}
    assert fixed.open == 0
    assert (await verify_all(there)).counts == {}


async def test_unreadable_object_is_reported_and_the_rest_is_verified(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    """Examples are an archived object, a key without read permission, or a bad sector."""
    email_id = await store_two_files(stored, zendesk)
    await place.place(key(PDF), BAD)
    await make_unreadable(place, TXT)

    run = await verify_all(there, fix=True)

    assert run.counts == {"object_damaged": 1, "object_unreadable": 1}
    assert (run.repaired, run.open) == ({"object_damaged": 1}, 1)
    (finding,) = [each for each in run.findings if each.kind == "object_unreadable"]
    assert (finding.key, finding.email_id, finding.repair) == (key(TXT), email_id, None)
    assert finding.detail["reason"].startswith("storage: ")


async def test_step_without_a_readable_object_is_repeated_once(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place, database: asyncpg.Connection
) -> None:
    await store_two_files(stored, zendesk)
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


async def test_damaged_content_of_two_files_is_set_aside_once(
    res: Resources, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, tmp_path: Path
) -> None:
    email_id = await store_two_files(settings, zendesk)
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
        " SELECT email_id, 2, source_url, status, sha256, size, object_key FROM attachments WHERE position = 0"
    )
    there = Directory(tmp_path / "objects")
    await there.place(key(PDF), BAD)

    run = await verify_all(res, fix=True, since=datetime(2020, 1, 1, tzinfo=UTC))

    assert (run.counts, run.repaired, run.objects) == ({"object_damaged": 1}, {"object_damaged": 1}, 3)
    (finding,) = run.findings
    assert (finding.email_id, finding.repair) == (email_id, "fetched again")
    assert finding.detail["kept_as"] == key(BAD)


async def test_object_that_cannot_be_removed_stays_and_the_rest_is_repaired(
    settings: Settings, zendesk: Zendesk, bucket: Bucket
) -> None:
    there = InBucket(bucket)
    settings = settings.model_copy(update={"storage_url": there.url})
    await store_two_files(settings, zendesk)
    await there.place(key(PDF), BAD)
    await there.remove(key(TXT))
    bucket.faults.append(S3Fault(refuses(403, "AccessDenied"), ("post", "delete"), times=math.inf))

    async with open_resources(settings) as res:
        run = await verify_all(res, fix=True)

    assert run.counts == {"object_damaged": 1, "object_missing": 1}
    assert run.repaired == {"object_missing": 1}
    (finding,) = [each for each in run.findings if each.kind == "object_damaged"]
    assert finding.detail["kept_as"] == key(BAD)
    assert "AccessDenied" in finding.detail["reason"]
    assert await there.objects() == {key(PDF): BAD, key(BAD): BAD}


@pytest.mark.parametrize("is_removed", [True, False])
async def test_copy_of_a_damaged_object_is_recorded_before_its_removal(
    settings: Settings, zendesk: Zendesk, bucket: Bucket, database: asyncpg.Connection, *, is_removed: bool
) -> None:
    """A worker is killed during the removal, or before it."""
    there = InBucket(bucket)
    settings = settings.model_copy(update={"storage_url": there.url})
    await store_two_files(settings, zendesk)
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


async def test_intact_object_is_never_set_aside(
    there: Resources, stored: Settings, zendesk: Zendesk, place: Place
) -> None:
    """The object was damaged when it was read, and was stored again before its removal."""
    await store_two_files(stored, zendesk)
    before = await place.objects()
    content = Content(key(PDF).replace("sha256/", "").replace("/", ""), len(PDF), key(PDF), 1)

    assert await keep_damaged(there, content) is None

    assert await place.objects() == before


async def test_killed_worker_costs_a_verification_one_step(
    res: Resources,
    settings: Settings,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await store_two_files(settings, zendesk)
    monkeypatch.setattr(verify, "STEP_CONTENTS", 1)
    run_id = await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=False)
    await verify.step(res)
    # Another worker claims a step, and dies.
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
    await store_two_files(settings, zendesk)
    monkeypatch.setattr(verify, "STEP_CONTENTS", 1)
    run_id = await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=False)

    async def work() -> None:
        while (await get_reconciliation(res.engine, run_id)).status == "running":
            await verify.step(res)

    await asyncio.gather(*(work() for _ in range(4)))

    assert (await get_reconciliation(res.engine, run_id)).objects == 2


async def test_verification_keeps_its_rate_limit_and_can_be_cancelled(
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


async def test_rate_limit_is_never_exceeded() -> None:
    rate_limit = RateLimit(1_000_000)
    began = time.monotonic()

    await asyncio.gather(*(rate_limit.spend(50_000) for _ in range(5)))

    assert 0.19 < time.monotonic() - began < 2
