"""The document of an e-mail is made of one snapshot."""

from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import retries
from service.postgres.engine import connect
from service.resources import Resources
from service.targets.document import make_document, read_records

EMAIL = """INSERT INTO incoming_emails (zendesk_ticket_id, idempotency_key, processing_status, attempt_number)
    VALUES ($1, $1, 'failed', 1)"""
FILES = """INSERT INTO attachments
    (email_id, position, source_url, file_name, status, declared_type, declared_size, error_code, error)
    VALUES ($1, $2, 'https://x.example/y', $3, 'failed', 'application/pdf', $4, 'attachment_gone', 'gone')"""


class RetryAfterEachStatement:
    """A connection that retries the job after each statement."""

    def __init__(self, conn: AsyncConnection, other: AsyncConnection) -> None:
        self._conn = conn
        self._other = other

    async def execute(self, *arguments: Any) -> Any:
        result = await self._conn.execute(*arguments)
        await retries.retry(self._other, [1], "tests")
        return result


async def test_retry_during_the_read_does_not_mix_two_states(
    res: Resources, database: asyncpg.Connection
) -> None:
    await database.execute(EMAIL, "1")
    await database.execute(FILES, 1, 0, "invoice.pdf", 5)
    async with connect(res.engine) as conn, connect(res.engine) as other:
        retrying: Any = RetryAfterEachStatement(conn, other)
        document = make_document((await read_records(retrying, [1]))[1], {})

    (file,) = document.content["attachments"]
    assert (document.content["status"], document.version, document.is_first) == ("failed", 1, True)
    assert (file["status"], file["error_code"]) == ("failed", "attachment_gone")
    assert await database.fetchval("SELECT processing_status FROM incoming_emails") == "queued"


async def test_each_record_has_its_own_files_in_order_and_unchanged(
    res: Resources, database: asyncpg.Connection
) -> None:
    name = 'Grüße\u2028"\\ 💥\x01.pdf'
    for ticket in ("1", "2", "3"):
        await database.execute(EMAIL, ticket)
    for email_id, position in ((1, 1), (3, 0), (1, 2), (1, 0)):
        await database.execute(FILES, email_id, position, f"{email_id} {position} {name}", 2**62)
    async with connect(res.engine) as conn:
        records = await read_records(conn, [3, 2, 1])

    found = {
        email_id: [(file["position"], file["file_name"], file["declared_size"]) for file in record.files]
        for email_id, record in records.items()
    }
    assert found == {
        1: [(position, f"1 {position} {name}", 2**62) for position in range(3)],
        2: [],
        3: [(0, f"3 0 {name}", 2**62)],
    }
