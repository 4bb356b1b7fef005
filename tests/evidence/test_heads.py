"""Signed heads: their keys, their time stamps, and where they are put."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from service.errors import HoldfastError, Permanent
from service.evidence import stamps
from service.evidence.heads import fingerprint, key_of, keys_of, put
from service.evidence.work import make_head
from service.queries.evidence import get_evidence
from service.queries.evidence_archive import Request
from service.resources import Resources
from service.storage import objects
from tests.evidence.test_export import run_program, unpack
from tests.support.evidence import add_whole, codes, finish_later, populate, verified
from tests.support.s3 import Bucket, Fault, freezes
from tests.support.time_stamps import openssl, time_stamp_authority

KEY, OTHER_KEY = "11" * 32, "22" * 32


def with_keys(res: Resources, *keys: str, **more: object) -> Resources:
    update = {"evidence_key": tuple(map(SecretStr, keys)), **more}
    return replace(res, settings=res.settings.model_copy(update=update))


async def test_keys_rotate_and_an_unknown_one_is_found(res: Resources) -> None:
    """The key that Postgres keeps counts until the first head that a key of the settings signed."""
    await populate(res, 1)
    first, second = with_keys(res, KEY), with_keys(res, OTHER_KEY, KEY)
    await make_head(first)
    await make_head(second)

    assert set() == await codes(second)
    assert {"head_key_unknown"} == await codes(first)
    await make_head(res)
    assert {"head_key_unknown"} == await codes(second)


async def test_heads_are_in_storage_and_the_newest_is_found_without_postgres(res: Resources) -> None:
    await populate(res, 2)
    view = await get_evidence(res.engine, res.settings)
    assert view.head is not None
    keys = await objects.heads(res.storage)

    assert view.head.object_key == keys[-1]
    assert view.head.stored_at is not None
    assert view.head.root.encode() in await objects.read_head(res.storage, keys[-1])
    assert len(keys) == view.head.number


async def test_a_head_that_the_storage_has_already_is_not_overwritten(res: Resources) -> None:
    await populate(res, 1)
    key = (await objects.heads(res.storage))[-1]
    before = await objects.read_head(res.storage, key)
    await objects.keep_head(res.storage, key, b"another")

    assert before == await objects.read_head(res.storage, key)


async def test_a_head_whose_number_is_taken_in_the_storage_gets_a_key_of_its_own(
    res: Resources, database: asyncpg.Connection
) -> None:
    """As after a restore: the storage has heads that Postgres does not know any more."""
    await populate(res, 1)
    log_id, last = await database.fetchval("SELECT log_id FROM evidence_log"), await make_head(res)
    taken = key_of(log_id, last + 1)
    await objects.keep_head(res.storage, taken, b"another")
    await make_head(res)
    view = (await get_evidence(res.engine, res.settings)).head
    await make_head(res)

    assert view is not None
    assert view.object_key not in (None, taken)
    assert view.root.encode() in await objects.read_head(res.storage, str(view.object_key))
    assert await objects.read_head(res.storage, taken) == b"another"
    assert await codes(res) == {"head_only_in_storage"}
    newest = (await get_evidence(res.engine, res.settings)).head
    assert newest is not None
    assert newest.object_key == key_of(log_id, last + 2)


async def test_a_head_is_not_called_stored_while_the_storage_has_other_bytes_in_its_places(
    res: Resources, database: asyncpg.Connection
) -> None:
    await populate(res, 1)
    await make_head(res)
    await database.execute("UPDATE evidence_heads SET stored_at = NULL WHERE number = 1")
    head = await database.fetchrow("SELECT * FROM evidence_heads WHERE number = 1")
    assert head is not None
    body = json.loads(head["body"])
    for key in keys_of(body["log"], 1, fingerprint(head["body"], head["signature"])):
        await res.storage.remove(key)
        await objects.keep_head(res.storage, key, b"another")

    with pytest.raises(Permanent, match="other bytes"):
        await put(res)

    assert await database.fetchval("SELECT stored_at FROM evidence_heads WHERE number = 1") is None


async def test_heads_have_time_stamps_that_openssl_verifies(
    res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    async with time_stamp_authority(tmp_path / "authority") as authority:
        stamped = with_keys(res, timestamp_url=authority.url)
        email_id = (await populate(stamped, 1))[0]
        assert not await stamps.stamp(stamped), "the newest head has a stamp"
        export = await unpack(stamped, Request([email_id]), tmp_path / "export")
        stamp = max(await asyncio.to_thread(lambda: [*(export / "stamps").iterdir()]))
        code, output = await openssl(
            *("-verify", "-in", str(stamp), "-data", str(export / "heads" / f"{stamp.stem}.json")),
            *("-CAfile", str(authority.root)),
        )

    assert code == 0, output
    assert "Verification: OK" in output
    assert set() == await codes(stamped)
    assert (await asyncio.to_thread(run_program, export))[0] == 0
    other = await database.fetchval("SELECT stamp FROM evidence_heads WHERE stamp IS NOT NULL LIMIT 1")
    await make_head(res)
    await database.execute("UPDATE evidence_heads SET stamp = $1 WHERE stamp IS NULL", other)
    assert {"stamp_wrong"} == await codes(res)


async def test_an_authority_that_stamps_nothing_stops_no_head(res: Resources, tmp_path: Path) -> None:
    await populate(res, 1)
    async with time_stamp_authority(tmp_path / "authority") as authority:
        authority.broken = b"no time stamp"
        stamped = with_keys(res, timestamp_url=authority.url)
        number = await make_head(stamped)
        with pytest.raises(HoldfastError, match="gave no time stamp"):
            await stamps.stamp(stamped)
        failed = (await get_evidence(res.engine, stamped.settings)).head
        authority.broken = None
        await stamps.stamp(stamped)
    view = (await get_evidence(res.engine, stamped.settings)).head

    assert failed is not None
    assert failed.stamp_error == "timestamp_wrong: the time stamp authority gave no time stamp"
    assert view is not None
    assert (number, None, True) == (view.number, view.stamp_error, view.stamped_at is not None)


async def test_recording_older_rows_reads_no_entries_of_other_emails(
    res: Resources, database: asyncpg.Connection
) -> None:
    """The log has just begun, so Postgres has statistics of the e-mails alone."""
    await make_head(res)
    await database.execute("""
        INSERT INTO incoming_emails (zendesk_ticket_id, idempotency_key, processing_status, due_at)
        SELECT i::text, i::text, 'received', now() FROM generate_series(1, 2000) AS i
    """)
    await database.execute("""
        INSERT INTO evidence_entries (kind, email_id, facts) SELECT 'accepted', -i, '{}' FROM generate_series(1, 10000) AS i
    """)
    await database.execute("ANALYZE incoming_emails")
    before = await rows_read(res)
    await finish_later(res)

    assert await rows_read(res) == before
    assert await database.fetchval("SELECT count(*) FROM evidence_entries WHERE email_id > 0") == 2_000


async def rows_read(res: Resources) -> int:
    """Return how many entries Postgres has read without an index."""
    async with res.engine.connect() as conn:
        await conn.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        query = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'evidence_entries'"
        return int((await conn.exec_driver_sql(query)).scalar_one())


async def test_rows_from_before_the_log_are_recorded_later_and_say_so(
    res: Resources, database: asyncpg.Connection
) -> None:
    await populate(res, 2)
    await database.execute("TRUNCATE evidence_entries, evidence_leaves, evidence_log, evidence_heads")
    for key in await objects.heads(res.storage):
        await res.storage.remove(key)
    await make_head(res)
    before = await codes(res)
    await finish_later(res)
    await make_head(res)

    assert set() == before == await codes(res)
    facts = await database.fetch("SELECT facts FROM evidence_entries")
    assert facts
    assert all('"later": true' in row["facts"] for row in facts)
    await add_whole(res, 9)
    await database.execute("DELETE FROM evidence_entries WHERE NOT facts LIKE '%later%'")
    assert {"row_not_logged"} == await codes(res), "after the pass, a row without an entry is a finding"


async def test_a_head_that_is_made_during_a_verification_is_no_finding(
    res: Resources, bucket: Bucket
) -> None:
    """A worker makes one at any time, also while the bucket is being listed."""
    there = replace(res, storage=objects.open_storage(f"s3://{bucket.name}"))
    await populate(there, 1)
    bucket.faults.append(Fault(freezes, ("get",)))

    verifying = asyncio.create_task(verified(there, with_objects=False))
    await bucket.frozen.wait()
    await make_head(there)
    bucket.thawed.set()

    assert (await verifying).findings == []
