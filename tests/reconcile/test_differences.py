"""A difference is open until it is repaired or compared again; alerts and metrics read it here."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count

import asyncpg
import pytest
from sqlalchemy import ColumnElement

from service.postgres.engine import run
from service.reconcile import verify
from service.reconcile.differences import (
    Differences,
    close,
    documents_of,
    extra_documents,
    objects_of,
    objects_under,
    open_differences,
)
from service.reconcile.finding import Finding
from service.reconcile.hourly import reconcile_hourly
from service.reconcile.run import RunOptions, reconcile
from service.resources import Resources
from service.storage import objects
from tests.support.places import chunks, key

WRONG_SIZE = {"size": 7, "expected_size": 8}
WRONG_BYTES = {"size": 8, "expected_size": 8}


async def add(database: asyncpg.Connection, *found: Finding) -> int:
    """Insert a finished run with its findings."""
    run_id = await database.fetchval(
        "INSERT INTO reconciliations (kind, fix, actor, status, finished_at)"
        " VALUES ('reconcile', 'nothing', 'ada (tests)', 'done', now()) RETURNING id"
    )
    await database.executemany(
        "INSERT INTO reconciliation_findings (reconciliation_id, kind, email_id, key, detail, repair)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        [(run_id, *each.row()) for each in found],
    )
    return int(run_id)


async def looks(
    res: Resources, database: asyncpg.Connection, looked: ColumnElement[bool], *found: Finding
) -> dict[str, int]:
    """Close findings as a run with this scope and these findings would; return the open differences."""
    run_id = await add(database, *found)
    await run(res.engine, 30, lambda conn: close(conn, run_id, looked, found))
    return await opened(res)


async def look(res: Resources) -> Differences:
    return await run(res.engine, 30, open_differences)


async def opened(res: Resources) -> dict[str, int]:
    return {kind: number for kind, number in (await look(res)).by_kind.items() if number}


async def test_difference_of_several_runs_counts_once_and_remarks_do_not(
    res: Resources, database: asyncpg.Connection
) -> None:
    gone = Finding("object_missing", key(b"a"), 1)
    await add(database, gone, Finding("missing", "a", 1), Finding("foreign", "b"), Finding("unclaimed", "c"))
    await add(database, gone)

    assert await opened(res) == {"object_missing": 1, "missing": 1}


async def test_repaired_difference_is_not_open(res: Resources, database: asyncpg.Connection) -> None:
    await add(database, Finding("ahead", "a", 1, repair="removed"), Finding("ahead", "b", 1))

    assert await opened(res) == {"ahead": 1}


async def test_run_closes_differences_of_the_emails_that_it_compared(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, *(Finding("missing", str(number), number) for number in (2, 3, 4)))
    await add(database, Finding("object_missing", key(b"a"), 3), Finding("extra", "x"))

    assert await looks(res, database, documents_of(3, 4)) == {"missing": 2, "object_missing": 1, "extra": 1}
    assert await looks(res, database, extra_documents()) == {"missing": 2, "object_missing": 1}


async def test_difference_that_is_found_again_is_open_by_its_newest_finding(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Keys of the target and of the storage are independent."""
    await add(database, Finding("missing", "a", 1), Finding("object_missing", "a", 1), Finding("extra", "b"))
    nowhere = documents_of(0, 0)

    assert await looks(res, database, nowhere, Finding("different", "a", 1)) == {
        "different": 1,
        "object_missing": 1,
        "extra": 1,
    }
    assert await looks(
        res, database, nowhere, Finding("different", "a", 1, repair="synced again"), Finding("extra", "b")
    ) == {"object_missing": 1, "extra": 1}


async def test_run_over_a_range_of_objects_closes_differences_of_sizes(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(
        database,
        Finding("object_missing", "sha256/ab/1", 1),
        Finding("object_damaged", "sha256/ab/2", 1, WRONG_SIZE),
        Finding("object_damaged", "sha256/ab/3", 1, WRONG_BYTES),
        Finding("object_unreadable", "sha256/ab/4", 1),
        Finding("object_missing", "sha256/ac/1", 1),
    )

    assert await looks(res, database, objects_under("sha256/ab/")) == {
        "object_missing": 1,
        "object_damaged": 1,
        "object_unreadable": 1,
    }


@pytest.mark.parametrize(
    ("were_read", "left"),
    [(False, {"object_damaged": 1, "object_missing": 1}), (True, {"object_missing": 1})],
)
async def test_only_a_run_that_read_an_object_closes_differences_of_its_bytes(
    res: Resources, database: asyncpg.Connection, left: dict[str, int], *, were_read: bool
) -> None:
    await add(
        database,
        Finding("object_damaged", "a", 1, WRONG_BYTES),
        Finding("object_damaged", "b", 1, WRONG_SIZE),
        Finding("object_missing", "c", 1),
    )

    assert await looks(res, database, objects_of(["a", "b"], were_read=were_read)) == left


async def test_command_without_a_target_closes_nothing_and_a_worker_without_one_does(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, Finding("ahead", "a", 1))
    await reconcile(res, RunOptions("ada (tests)"), lambda _share, _seen: None)
    by_hand = await opened(res)
    await reconcile_hourly(res)

    assert (by_hand, await opened(res)) == ({"ahead": 1}, {})


async def test_at_the_limit_of_saved_findings_there_may_be_more(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, *(Finding("missing", str(number), number) for number in range(1_999)))
    before = await look(res)
    await add(database, Finding("missing", "another", 2_000))

    assert (before.may_be_more, (await look(res)).may_be_more) == (False, True)


def beginning(digits: str) -> bytes:
    """Make a content whose hash has this prefix."""
    numbers = (str(number).encode() for number in count())
    return next(content for content in numbers if sha256(content).hexdigest().startswith(digits))


async def test_real_runs_open_and_close_differences(res: Resources, database: asyncpg.Connection) -> None:
    """Two of three files are lost, and one comes back."""
    contents = [beginning(digits) for digits in ("00", "7f", "ff")]
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, received_at)"
        " VALUES ('1', 'completed', now() - interval '9 days')"
    )
    kept = [await objects.put(res.storage, chunks(content), None) for content in contents]
    await database.executemany(
        "INSERT INTO attachments (email_id, position, source_url, status, sha256, size, object_key)"
        " VALUES (1, $1, 'https://x.example/', 'stored', $2, $3, $4)",
        [(place, each.sha256, each.size, each.key) for place, each in enumerate(kept)],
    )

    await objects.remove(res.storage, kept[0].key)
    await objects.remove(res.storage, kept[2].key)
    await reconcile(res, RunOptions("ada (tests)"), lambda _share, _seen: None)
    by_whole = await opened(res)
    await objects.put(res.storage, chunks(contents[0]), None)
    await reconcile_hourly(res)  # the first part, with the file that came back
    by_hour = await opened(res)
    await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=False)
    while await verify.step(res):
        pass

    assert by_whole == {"object_missing": 2}
    assert by_hour == {"object_missing": 1}
    assert await opened(res) == {"object_missing": 1}


async def test_running_reconciliation_counts_while_it_makes_progress(
    res: Resources, database: asyncpg.Connection
) -> None:
    async def ages() -> int | None:
        at = (await look(res)).compared_at
        return None if at is None else round((datetime.now(UTC) - at) / timedelta(hours=1))

    never = await ages()
    await add(database)
    await database.execute("UPDATE reconciliations SET finished_at = now() - interval '9 h'")
    long_ago = await ages()
    await database.execute(
        "INSERT INTO reconciliations (kind, actor, fix, started_at, seen_at)"
        " VALUES ('reconcile', 'ada', 'nothing', now() - interval '8 h', now() - interval '2 h')"
    )
    sees_nothing = await ages()
    await database.execute("UPDATE reconciliations SET emails = 1000 WHERE status = 'running'")

    assert (never, long_ago, sees_nothing) == (None, 9, 9)
    assert await ages() == 2
