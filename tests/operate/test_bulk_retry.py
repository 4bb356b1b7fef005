"""Bulk retry of all e-mails that match a filter: planned, rate-limited, cancelled, and never twice."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from service.capture.word_index import write_words
from service.errors import Rejected
from service.operate import bulk_retry
from service.postgres.selection import Selection
from service.resources import Resources
from tests.support.retries import FAILED, all_steps, begin, show
from tests.support.rows import add_many_failed


@pytest.fixture(autouse=True)
async def empty(database: asyncpg.Connection) -> None:
    """Start without e-mails."""


async def statuses(database: asyncpg.Connection, ids: Sequence[int]) -> list[str]:
    rows = await database.fetch(
        "SELECT processing_status FROM incoming_emails WHERE id = ANY($1) ORDER BY id", ids
    )
    return [row["processing_status"] for row in rows]


async def test_all_matching_emails_and_no_others_are_retried_with_a_fresh_budget(
    res: Resources, database: asyncpg.Connection
) -> None:
    wanted = await add_many_failed(database, 25)
    others = await add_many_failed(database, 5, error_code="too_large")

    number = await begin(res, Selection(status="failed", error_code="http_500"), 10)
    steps = await all_steps(res, database)

    assert await statuses(database, wanted) == ["queued"] * 25
    assert await statuses(database, others) == ["failed"] * 5
    assert steps == 3
    done = await show(res, number)
    assert (done.status, done.retried, done.planned, done.planned_capped) == ("done", 25, 25, False)
    columns = "attempt_number, retry_count, error_code, error_host, processing_error, completed_at"
    job = await database.fetchrow(f"SELECT {columns} FROM incoming_emails WHERE id = $1", wanted[0])
    assert job is not None
    assert tuple(job) == (3, 0, None, None, None, None)


async def test_a_plan_counts_and_changes_nothing(res: Resources, database: asyncpg.Connection) -> None:
    ids = await add_many_failed(database, 7)

    assert await bulk_retry.plan(res, FAILED) == (7, False)

    assert await statuses(database, ids) == ["failed"] * 7
    assert await database.fetchval("SELECT count(*) FROM bulk_retries") == 0


async def test_a_plan_with_more_rows_than_one_step_examines_is_capped(
    res: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_many_failed(database, 10_001)

    assert await bulk_retry.plan(res, FAILED) == (10_000, True)


async def test_one_step_queues_at_most_per_second_emails(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 9)
    await begin(res, FAILED, 4)

    assert await bulk_retry.step(res)
    assert not await bulk_retry.step(res), "the next one is due in a second"

    assert await statuses(database, ids) == ["failed"] * 5 + ["queued"] * 4


async def test_a_cancelled_bulk_retry_takes_no_further_step(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 9)
    number = await begin(res, FAILED, 4)
    await bulk_retry.step(res)

    await bulk_retry.cancel(res, number, "bob (tests)")
    await database.execute("UPDATE bulk_retries SET next_at = now()")

    assert not await bulk_retry.step(res)
    assert (await statuses(database, ids)).count("queued") == 4
    cancelled = await show(res, number)
    assert (cancelled.status, cancelled.retried) == ("cancelled", 4)
    with pytest.raises(Rejected, match="cancelled already"):
        await bulk_retry.cancel(res, number, "bob (tests)")


async def test_failures_after_the_start_are_not_retried(res: Resources, database: asyncpg.Connection) -> None:
    before = await add_many_failed(database, 3)
    await begin(res, FAILED)
    later = await add_many_failed(database, 2)
    await database.execute("UPDATE incoming_emails SET completed_at = now() WHERE id = ANY($1)", later)

    await all_steps(res, database)

    assert await statuses(database, before) == ["queued"] * 3
    assert await statuses(database, later) == ["failed"] * 2


async def test_an_email_queued_by_another_bulk_retry_is_not_queued_twice(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 20)
    numbers = [await begin(res, FAILED) for _ in range(3)]

    await asyncio.gather(*(all_steps(res, database) for _ in range(3)))

    assert await statuses(database, ids) == ["queued"] * 20
    assert sum([(await show(res, number)).retried for number in numbers]) == 20
    noted = await database.fetch("SELECT email_id FROM operator_actions WHERE action = 'retry'")
    assert sorted(row["email_id"] for row in noted) == ids


async def test_a_step_that_several_workers_claim_is_done_once(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = await add_many_failed(database, 40)
    number = await begin(res, FAILED, 10)

    await asyncio.gather(*(bulk_retry.step(res) for _ in range(8)))

    assert (await statuses(database, ids)).count("queued") == 10
    assert (await show(res, number)).retried == 10


async def test_a_rare_text_leads_to_its_emails(
    res: Resources, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_retry, "EXAMINED", 10)
    ids = await add_many_failed(database, 95)
    await database.execute("UPDATE incoming_emails SET subject = 'The Invoice_4' WHERE id = $1", ids[3])
    await database.execute("UPDATE incoming_emails SET subject = 'The InvoiceX4' WHERE id = $1", ids[50])
    await res.run(lambda conn: write_words(conn, ids))

    number = await begin(res, Selection(status="failed", q="invoice_4"))
    steps = await all_steps(res, database)

    assert (await statuses(database, ids)).index("queued") == 3
    assert (await show(res, number)).retried == 1
    assert steps == 1


async def test_the_operator_is_recorded_with_each_email(res: Resources, database: asyncpg.Connection) -> None:
    (email_id,) = await add_many_failed(database, 1)
    number = await begin(res, FAILED)
    await all_steps(res, database)

    rows = await database.fetch(
        "SELECT actor, action, email_id, bulk_retry_id FROM operator_actions ORDER BY id"
    )

    assert [tuple(row) for row in rows] == [
        ("ada (tests)", "retry_many", None, number),
        ("ada (tests)", "retry", email_id, number),
    ]


@pytest.mark.parametrize("status", ["received", "queued", "processing"])
async def test_an_unfinished_job_cannot_be_retried(res: Resources, status: Any) -> None:
    with pytest.raises(Rejected) as refused:
        await begin(res, Selection(status=status))

    assert (refused.value.status, refused.value.code) == (422, "not_finished")
