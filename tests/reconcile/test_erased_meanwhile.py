"""An e-mail that is erased while it is compared or verified is no difference, and nothing of it is recorded."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import erasure, objects, receipts
from service.custody.removal import remove
from service.custody.scopes import scope_of
from service.jobs.loose_objects import put
from service.postgres.engine import connect, transaction
from service.reconcile import steps, verify
from service.reconcile.finding import Finding
from service.resources import Resources
from service.storage.objects import open_storage
from service.storage.spool import object_key
from tests.conftest import eventually
from tests.evidence.test_export import someone_waits
from tests.support.erasing_emails import tables_with
from tests.support.evidence import populate
from tests.support.places import chunks
from tests.support.reconciling import compare, verify_all
from tests.support.rows import NOON, add
from tests.support.s3 import Bucket, Fault, freezes


async def erase(res: Resources, **scope: str | int) -> None:
    erasure_id = await erasure.start(res, scope_of(dict(scope)), "Asked for.", "ada")
    assert (await erasure.run(res, erasure_id)).status == "done"
    while await objects.step(res):
        pass


@pytest.mark.parametrize("how", ["compare", "verify"])
@pytest.mark.parametrize("what", ["email", "file"])
async def test_what_is_erased_while_its_objects_are_looked_at_is_no_difference(
    how: str, what: str, res: Resources, bucket: Bucket, database: asyncpg.Connection
) -> None:
    there = replace(res, storage=open_storage(f"s3://{bucket.name}"))
    email_id, *_ = await populate(there, 1)
    sha256 = await database.fetchval("SELECT sha256 FROM attachments")
    bucket.faults.append(Fault(freezes, ("head",), times=8))

    running = asyncio.create_task(compare(there, since=NOON) if how == "compare" else verify_all(there))
    await bucket.frozen.wait()
    bucket.faults.clear()
    await erase(there, **({"email": email_id} if what == "email" else {"file": sha256}))
    bucket.thawed.set()
    found = await running

    assert (found.counts, found.findings) == ({}, [])
    assert await tables_with(database, sha256) == []


@pytest.mark.parametrize("is_copy", [False, True])
async def test_a_finding_about_an_email_that_is_being_erased_is_not_recorded(
    res: Resources, database: asyncpg.Connection, *, is_copy: bool
) -> None:
    """Its document or its damaged file was read before; a finding may have a copy of either."""
    email_id = await add(database, processing_status="completed", from_email="ann@customer.example")
    finding = Finding("object_damaged", object_key("0" * 64), email_id, {"there": "A secret."})
    await verify.begin(res, actor="ada", rate=1000, since=None, fix=True)
    claim = await res.run(lambda conn: steps.claim_step(conn, timedelta(minutes=1)))
    assert claim is not None
    kept = await put(res, chunks(b"A damaged secret."), None, email_id)

    async def record(conn: AsyncConnection) -> None:
        if is_copy:
            await steps.record_copy(conn, claim, finding, kept, {})
        else:
            await steps.finish(conn, claim, steps.StepResult(None, findings=[finding]))

    async with connect(res.engine) as conn, transaction(conn):
        receipt_id = await receipts.begin(conn, "erasure", "ada")
        assert await remove(conn, [email_id], receipt_id)
        recording = asyncio.create_task(res.run(record))
        await eventually(partial(someone_waits, database))
    ended = (await asyncio.gather(recording, return_exceptions=True))[0]

    assert isinstance(ended, steps.LeaseLost) is is_copy
    assert await tables_with(database, "secret") == []
    # The copy was noted before it was put, and is removed.
    assert await database.fetchval("SELECT count(*) FROM loose_objects WHERE key = $1", kept.key) == 1
