"""E-mails that are one comment, as rows: for tests of merges."""

from typing import Any

import asyncpg

from tests.support.rows import add

TICKET, COMMENT = "4711", "815"
STORED = {"status": "stored", "size": 3, "detected_type": "text/plain", "stored_at": None}


async def add_email(database: asyncpg.Connection, status: str = "completed", **columns: object) -> int:
    """Insert an e-mail that names COMMENT, as an earlier version recorded it; return its id."""
    values: dict[str, object] = {
        "zendesk_ticket_id": TICKET,
        "comment_id": COMMENT,
        "account_id": "1",
        "raw_body": b"{}",
        "raw_headers": "[]",
        "attachment_urls": "[]",
        "processing_status": status,
        "attempt_number": 1,
        **columns,
    }
    return await add(database, "incoming_emails", **values)


async def add_file(database: asyncpg.Connection, email_id: int, position: int = 0, **columns: object) -> None:
    """Insert a file of an e-mail; with `sha256`, its content is stored."""
    sha256 = columns.get("sha256")
    stored = {**STORED, "object_key": f"sha256/{str(sha256)[:2]}/{str(sha256)[2:]}"} if sha256 else {}
    place = {"email_id": email_id, "position": position}
    await add(database, "attachments", **place, **{"source_url": url(str(position)), **stored, **columns})


async def add_attempt(
    database: asyncpg.Connection, email_id: int, number: int, outcome: str | None = "completed"
) -> None:
    await add(database, "attempts", email_id=email_id, number=number, worker="w", outcome=outcome)


async def add_message(database: asyncpg.Connection, email_id: int, **columns: object) -> None:
    """Insert the message of an e-mail."""
    sha256 = str(columns.get("record_sha256", "ab" * 32))
    values = {
        "comment_id": COMMENT,
        "direction": "inbound",
        '"to"': "[]",
        "cc": "[]",
        "text": "Hello",
        "text_size": 5,
        "has_html": False,
        "record_sha256": sha256,
        "record_key": f"sha256/{sha256[:2]}/{sha256[2:]}",
        "record_size": 2,
        **columns,
    }
    await add(database, "messages", email_id=email_id, **values)


async def files(database: asyncpg.Connection, email_id: int) -> list[tuple[Any, ...]]:
    """Return position, status, hash and name of each file."""
    rows = await database.fetch(
        "SELECT position, status, sha256, file_name FROM attachments WHERE email_id = $1 ORDER BY position",
        email_id,
    )
    return [tuple(row) for row in rows]


async def ids(database: asyncpg.Connection) -> list[int]:
    return [row["id"] for row in await database.fetch("SELECT id FROM incoming_emails ORDER BY id")]


def url(token: str, query: str = "name=a.txt") -> str:
    return f"https://acme.zendesk.com/attachments/token/{token}/?{query}"
