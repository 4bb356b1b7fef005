"""States of files: only the attempt that has claimed the job can write them."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg

from service.errors import Permanent, Transient
from service.jobs import attempts
from service.jobs.arrival import Arrival, receive
from service.jobs.attachments import FileUpdate, files_of, mark
from service.jobs.attempts import Claim, ClaimRequest, Settlement
from service.jobs.waiting import Job
from service.postgres.engine import connect
from service.resources import Resources
from service.storage.objects import StoredObject

STORED = StoredObject("ab" * 32, 2**40, "application/pdf", "sha256/ab/cd")
GONE = Permanent("attachment_gone", "It is gone.")


async def claimed(res: Resources, keys: str) -> list[Claim]:
    """Record e-mails of two files each, and claim them."""
    file = {"source_url": "u", "file_name": None, "declared_type": None, "declared_size": None}
    files = [{**file, "position": position} for position in range(2)]
    columns: list[dict[str, Any]] = [{"idempotency_key": key, "zendesk_ticket_id": key} for key in keys]
    async with connect(res.engine) as conn:
        recorded = await receive(conn, [Arrival(each, files) for each in columns])
        requests = [
            ClaimRequest(Job(each.email_id or 0, 1), "worker", timedelta(minutes=1)) for each in recorded
        ]
        return [claim for claim in await attempts.claim(conn, requests) if claim]


async def test_updates_in_one_statement_have_a_result_each(
    res: Resources, database: asyncpg.Connection
) -> None:
    one, two, lost = await claimed(res, "abc")
    async with connect(res.engine) as conn:
        await attempts.settle(conn, [Settlement(lost, "handed_back")])
        held = await mark(
            conn,
            [
                FileUpdate(two.fencing_token, 1, "failed", error=GONE),
                FileUpdate(lost.fencing_token, 0, "stored", STORED),
                FileUpdate(one.fencing_token, 0, "stored", STORED),
                FileUpdate((one.email_id, 2), 1, "stored", STORED),
                FileUpdate(one.fencing_token, 7, "stored", STORED),
                FileUpdate(two.fencing_token, 0, "pending", error=Transient("server_error", "Not now.")),
            ],
        )

    assert held == [True, False, True, False, False, True]
    rows = await database.fetch("SELECT * FROM attachments ORDER BY email_id, position")
    statuses = ["stored", "pending", "pending", "failed", "pending", "pending"]
    codes = [None, None, "server_error", "attachment_gone", None, None]
    assert [row["status"] for row in rows] == statuses
    assert [row["error_code"] for row in rows] == codes
    assert [(row["size"], row["object_key"]) for row in rows if row["stored_at"]] == [(2**40, STORED.key)]


async def test_a_file_stored_by_a_later_attempt_shows_no_error(
    res: Resources, database: asyncpg.Connection
) -> None:
    [claim] = await claimed(res, "a")
    for made in (
        FileUpdate(claim.fencing_token, 0, "pending", error=GONE),
        FileUpdate(claim.fencing_token, 0, "stored", STORED),
    ):
        assert await res.batch(mark, made)

    row = await database.fetchrow("SELECT * FROM attachments WHERE position = 0")
    assert (row["status"], row["error_code"], row["error"]) == ("stored", None, None)


async def test_an_update_that_postgres_refuses_fails_alone(res: Resources) -> None:
    claims = await claimed(res, "abcdef")
    marks = [FileUpdate(claim.fencing_token, 0, "stored", STORED) for claim in claims]
    marks[2] = FileUpdate(claims[2].fencing_token, 0, "stored", StoredObject("\0", 1, None, "key"))

    held = await asyncio.gather(*(res.batch(mark, each) for each in marks), return_exceptions=True)

    assert isinstance(held.pop(2), Permanent)
    assert held == [True] * 5


async def test_files_are_listed_in_order_for_each_caller(res: Resources) -> None:
    one, two = await claimed(res, "ab")
    async with connect(res.engine) as conn:
        listed = await files_of(conn, [two.email_id, 999, one.email_id, two.email_id])

    assert [[file.position for file in files] for files in listed] == [[0, 1], [], [0, 1], [0, 1]]
