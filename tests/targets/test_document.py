"""The document of an e-mail is made of one snapshot."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import retries
from service.postgres.engine import connect
from service.resources import Resources
from service.targets.document import digest, make_document, read_records
from tests.support.merging import add_attempt
from tests.support.messages import add_message
from tests.support.rows import NOON, add

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


async def test_only_an_earlier_end_of_its_own_job_makes_a_document_a_further_one(
    res: Resources, database: asyncpg.Connection
) -> None:
    for ticket in ("1", "2"):
        await database.execute(EMAIL, ticket)
    await database.execute("UPDATE incoming_emails SET attempt_number = 2 WHERE id = 1")
    await database.execute(
        "INSERT INTO attempts (email_id, number, worker, outcome)"
        " VALUES (1, 1, 'worker.1', 'failed'), (1, 2, 'worker.1', 'failed'), (2, 1, 'worker.1', 'failed')"
    )
    async with connect(res.engine) as conn:
        records = await read_records(conn, [1, 2])

    is_first = {email_id: make_document(record, {}).is_first for email_id, record in records.items()}
    assert is_first == {1: False, 2: True}


@pytest.mark.parametrize(
    ("version", "outcomes", "is_first"),
    [
        (3, ["released", "handed_back", "completed"], True),
        (6, ["abandoned"] * 5 + ["completed"], False),
        (2, ["released"], True),
        (2, [None, "completed"], False),
        (2, ["completed"], False),
        (0, [], False),
    ],
    ids=[
        "retries",
        "abandoned",
        "refused claim",
        "after a refused claim",
        "version without an attempt",
        "taken over",
    ],
)
async def test_a_document_is_the_first_one_only_where_each_earlier_attempt_was_followed_by_another(
    res: Resources, database: asyncpg.Connection, *, version: int, outcomes: list[str | None], is_first: bool
) -> None:
    """A receiver drops what comes with an id that it knows: it would keep the earlier document for ever."""
    await add(database, processing_status="completed", attempt_number=version)
    for number, outcome in enumerate(outcomes, 1):
        if outcome:
            await add_attempt(database, 1, number, outcome)

    async with connect(res.engine) as conn:
        assert make_document((await read_records(conn, [1]))[1], {}).is_first is is_first


async def document_of(res: Resources, public_url: str | None = None) -> Mapping[str, Any]:
    async with connect(res.engine) as conn:
        return make_document((await read_records(conn, [1]))[1], {}, public_url).content


async def test_document_without_a_fetched_message_is_that_of_earlier_versions(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Otherwise reconcile would write every document anew."""
    await add(database, processing_status="completed", received_at=NOON, attempt_number=1, subject="Grüße")

    document = await document_of(res)

    assert document == {
        **dict.fromkeys(("error_code", "error", "comment_id", "from_email", "from_name", "sent_at")),
        **dict.fromkeys(("started_at", "completed_at")),
        "source": "holdfast",
        "email_id": 1,
        "version": 1,
        "status": "completed",
        "ticket_id": "4711",
        "subject": "Grüße",
        "received_at": NOON,
        "attachments": [],
    }
    assert digest(document) == "b41a58e570ae324a0032057811a1a75f4192dc90edc098688da5e86f87f6d1ad"


@pytest.mark.parametrize(
    ("text", "kept", "has_link"),
    [
        ("The invoice is attached.", "The invoice is attached.", False),
        ("ü" * 10_000, "ü" * 10_000, False),
        ("ü" * 10_001, "ü" * 10_000, True),
        ("x" * 200_000, "x" * 10_000, True),
    ],
    ids=["short", "longest", "longer", "cut in Postgres too"],
)
async def test_document_has_the_message_and_a_link_to_a_long_text(
    res: Resources, database: asyncpg.Connection, *, text: str, kept: str, has_link: bool
) -> None:
    await add(database, processing_status="completed", subject="Old")
    await add_message(database, res, 1, text, subject=None, sent_at=NOON + timedelta(microseconds=1999))

    document = await document_of(res, "https://acme.example/")

    assert document["subject"] == "Old"
    assert document["message"] == {
        "comment_id": "9001",
        "direction": "inbound",
        "public": True,
        "subject": None,
        "from": {"name": "Ann", "address": "ann@customer.example"},
        "to": [{"name": "Acme", "address": "support@acme.example"}],
        "cc": [{"name": None, "address": "bob@customer.example"}],
        "message_id": "<one@customer.example>",
        "sent_at": NOON + timedelta(milliseconds=1),
        "text": kept,
        "text_url": "https://acme.example/api/v1/emails/1/message.txt" if has_link else None,
    }


async def test_links_to_texts_are_compared_as_links_to_files_are(
    res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, processing_status="completed")
    await add_message(database, res, 1, "x" * 10_001)

    one, other = await document_of(res), await document_of(res, "https://acme.example")

    assert digest(one, with_links=True) != digest(other, with_links=True)
    assert digest(one) == digest(other)
    assert digest({**one, "message": None}) != digest(one)
