"""An e-mail that is erased while it is compared or verified is no difference, and nothing of it is recorded."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from service.custody import erasure, objects
from service.custody.scopes import scope_of
from service.resources import Resources
from service.storage.objects import open_storage
from tests.support.erasing_emails import tables_with
from tests.support.evidence import populate
from tests.support.reconciling import compare, verify_all
from tests.support.rows import NOON
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
