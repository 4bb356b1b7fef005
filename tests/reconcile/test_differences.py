"""What runs found is open until it was put right, or looked at again; what alerts and metrics tell comes from here."""

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
    """Put a run on record that is done, with what it found."""
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
    """Have a run look there and find that; return what is open then."""
    run_id = await add(database, *found)
    await run(res.engine, 30, lambda conn: close(conn, run_id, looked, found))
    return await opened(res)


async def look(res: Resources) -> Differences:
    return await run(res.engine, 30, open_differences)


async def opened(res: Resources) -> dict[str, int]:
    return {kind: number for kind, number in (await look(res)).by_kind.items() if number}


async def test_what_several_runs_found_counts_once_and_remarks_do_not(
    res: Resources, database: asyncpg.Connection
) -> None:
    gone = Finding("object_missing", key(b"a"), 1)
    await add(database, gone, Finding("missing", "a", 1), Finding("foreign", "b"), Finding("unclaimed", "c"))
    await add(database, gone)

    assert await opened(res) == {"object_missing": 1, "missing": 1}


async def test_what_was_put_right_is_not_open(res: Resources, database: asyncpg.Connection) -> None:
    await add(database, Finding("ahead", "a", 1, repair="removed"), Finding("ahead", "b", 1))

    assert await opened(res) == {"ahead": 1}


async def test_who_looked_at_the_documents_of_some_emails_closes_those(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, *(Finding("missing", str(number), number) for number in (2, 3, 4)))
    await add(database, Finding("object_missing", key(b"a"), 3), Finding("extra", "x"))

    assert await looks(res, database, documents_of(3, 4)) == {"missing": 2, "object_missing": 1, "extra": 1}
    assert await looks(res, database, extra_documents()) == {"missing": 2, "object_missing": 1}


async def test_what_is_found_again_is_open_by_its_newest_word(
    res: Resources, database: asyncpg.Connection
) -> None:
    """In the target and in the storage, a key is another one."""
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


async def test_who_looked_at_a_range_of_objects_closes_what_is_told_by_their_sizes(
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
async def test_only_who_read_an_object_closes_what_is_said_of_its_bytes(
    res: Resources, database: asyncpg.Connection, left: dict[str, int], *, were_read: bool
) -> None:
    await add(
        database,
        Finding("object_damaged", "a", 1, WRONG_BYTES),
        Finding("object_damaged", "b", 1, WRONG_SIZE),
        Finding("object_missing", "c", 1),
    )

    assert await looks(res, database, objects_of(["a", "b"], were_read=were_read)) == left


async def test_who_has_no_target_closes_nothing_of_it_unless_workers_have_none(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, Finding("ahead", "a", 1))
    await reconcile(res, RunOptions("ada (tests)"), lambda _share, _seen: None)
    by_hand = await opened(res)
    await reconcile_hourly(res)

    assert (by_hand, await opened(res)) == ({"ahead": 1}, {})


async def test_of_more_than_a_run_keeps_there_may_be_more(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, *(Finding("missing", str(number), number) for number in range(1_999)))
    before = await look(res)
    await add(database, Finding("missing", "another", 2_000))

    assert (before.may_be_more, (await look(res)).may_be_more) == (False, True)


def beginning(digits: str) -> bytes:
    """Make a content whose hash begins so."""
    numbers = (str(number).encode() for number in count())
    return next(content for content in numbers if sha256(content).hexdigest().startswith(digits))


async def test_runs_that_compare_are_understood(res: Resources, database: asyncpg.Connection) -> None:
    """With real runs: of three files two go, one of which comes back."""
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
    await reconcile_hourly(res)  # the first part, in which it is there again
    by_hour = await opened(res)
    await verify.begin(res, actor="ada (tests)", rate=1000, since=None, fix=False)
    while await verify.step(res):
        pass

    assert by_whole == {"object_missing": 2}
    assert by_hour == {"object_missing": 1}
    assert await opened(res) == {"object_missing": 1}


async def test_a_run_under_way_compares_while_it_gets_on(
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
