"""Insert rows, and read them, past the service."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID

NOON = datetime(2025, 11, 3, 12, 0, tzinfo=UTC)
QUARANTINED_BODY = b'{"ticket_id": 4711, "subject": "Invoice"}'
QUARANTINED_HEADERS = [[ACCOUNT_ID, "21978514"], [INVOCATION_ID, "one"], ["X-Other", "kept"]]


async def add(database: asyncpg.Connection, table: str = "incoming_emails", **columns: object) -> int:
    """Insert a row; return its first column, the id."""
    if table == "incoming_emails":
        columns = {"zendesk_ticket_id": "4711", **columns}
    numbers = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({numbers}) RETURNING *"
    number: int = (await database.fetchrow(statement, *columns.values()))[0]
    return number


async def add_received(
    database: asyncpg.Connection, ago: str, status: str = "completed", **columns: object
) -> int:
    """Insert an e-mail that was received some time ago; return its id."""
    values = {"zendesk_ticket_id": "1", "processing_status": status, **columns}
    names, places = ", ".join(values), ", ".join(f"${place}" for place in range(2, len(values) + 2))
    number = await database.fetchval(
        f"INSERT INTO incoming_emails (received_at, {names}) VALUES (now() - $1::text::interval, {places})"
        " RETURNING id",
        ago,
        *values.values(),
    )
    return int(number)


async def add_failed(
    database: asyncpg.Connection, ago: str, code: str = "gone", host: str | None = "a.example"
) -> int:
    number = await add_received(
        database,
        ago,
        "failed",
        error_code=code,
        error_host=host,
        processing_error=f"It is gone.\n{'x' * 900}",
    )
    await database.execute("UPDATE incoming_emails SET completed_at = received_at WHERE id = $1", number)
    return number


async def add_quarantined(
    database: asyncpg.Connection, code: str, ago: str = "1 hour", count: int = 1, **columns: object
) -> int:
    """Insert webhooks that were quarantined some time ago; return the id of the newest."""
    values = {"raw_body": b"", "raw_headers": "[]", "error_code": code, "error": "No.", **columns}
    names, places = ", ".join(values), ", ".join(f"${place}" for place in range(3, len(values) + 3))
    number = await database.fetchval(
        f"WITH added AS (INSERT INTO quarantined_webhooks (idempotency_key, received_at, {names})"
        f" SELECT gen_random_uuid()::text, now() - $1::text::interval, {places} FROM generate_series(1, $2)"
        " RETURNING id) SELECT max(id) FROM added",
        ago,
        count,
        *values.values(),
    )
    return int(number)


async def add_many_failed(database: asyncpg.Connection, count: int, **columns: Any) -> list[int]:
    """Insert failed e-mails, the oldest first; return their ids."""
    values = {
        "error_code": "http_500",
        "error_host": "files.example",
        "processing_error": "It broke.",
    } | columns
    names = ", ".join(values)
    places = ", ".join(f"${number + 2}" for number in range(len(values)))
    rows = await database.fetch(
        f"""
        INSERT INTO incoming_emails
        (zendesk_ticket_id, processing_status, received_at, completed_at, attempt_number, retry_count, {names})
        SELECT i::text, 'failed', now() - (1000 - i) * interval '1 s', now() - interval '1 s', 3, 2, {places}
        FROM generate_series(1, $1) AS i RETURNING id
        """,
        count,
        *values.values(),
    )
    return [row["id"] for row in rows]


async def add_quarantined_body(
    database: asyncpg.Connection, body: bytes = QUARANTINED_BODY, **columns: object
) -> int:
    """Insert a quarantined webhook with this body; return its id."""
    row = {
        "idempotency_key": "one",
        "received_at": NOON,
        "account_id": "21978514",
        "invocation_id": "one",
        "raw_body": body,
        "raw_headers": json.dumps(QUARANTINED_HEADERS),
        "error_code": "not_json",
        "error": "It was not read then.",
        **columns,
    }
    numbers = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    statement = f"INSERT INTO quarantined_webhooks ({', '.join(row)}) VALUES ({numbers}) RETURNING id"
    number: int = await database.fetchval(statement, *row.values())
    return number


async def add_many_finished(database: asyncpg.Connection, count: int, status: str = "synced") -> list[int]:
    """Insert completed e-mails with this sync status; return their ids."""
    rows = await database.fetch(
        """
        INSERT INTO incoming_emails (zendesk_ticket_id, subject, processing_status, sync_status, attempt_number,
            started_at, completed_at)
        SELECT i::text, 'Grüße ' || i, 'completed', $2, 1, now(), now() FROM generate_series(1, $1) AS i RETURNING id
        """,
        count,
        status,
    )
    return [row["id"] for row in rows]


async def add_reconciliation(database: asyncpg.Connection, **columns: Any) -> int:
    """Insert a reconciliation that is done; return its id."""
    values = {
        "kind": "reconcile",
        "status": "done",
        "actor": "reconcile",
        "fix": "syncs",
        "part": 3,
        "targets": "mongodb",
        **columns,
    }
    values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    names, places = ", ".join(values), ", ".join(f"${place}" for place in range(1, len(values) + 1))
    number = await database.fetchval(
        f"INSERT INTO reconciliations ({names}, finished_at) VALUES ({places}, now()) RETURNING id",
        *values.values(),
    )
    return int(number)


async def add_findings(database: asyncpg.Connection, run_id: int, *kinds: str) -> None:
    """Insert findings of a run, each with its own key."""
    await database.execute(
        "INSERT INTO reconciliation_findings (reconciliation_id, kind, key, detail)"
        " SELECT $1, kind, place::text, '{}' FROM unnest($2::text[]) WITH ORDINALITY AS found (kind, place)",
        run_id,
        [*kinds],
    )


async def bodies(database: asyncpg.Connection, table: str = "incoming_emails") -> list[bytes]:
    return [row["raw_body"] for row in await database.fetch(f"SELECT raw_body FROM {table} ORDER BY id")]


async def count_saved(database: asyncpg.Connection) -> int:
    """Count the saved e-mails, quarantined webhooks and ignored webhooks."""
    number: int = await database.fetchval(
        "SELECT (SELECT count(*) FROM incoming_emails) + (SELECT count(*) FROM quarantined_webhooks)"
        " + (SELECT count(*) FROM ignored_webhooks)"
    )
    return number


@asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Lock the table of e-mails during the block; yield the connection that holds the lock."""
    holder = await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE incoming_emails IN ACCESS EXCLUSIVE MODE")
            yield holder
    finally:
        await holder.close()


async def is_waiting_for_a_lock(connection: asyncpg.Connection) -> bool:
    return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def delete_emails(database: asyncpg.Connection) -> None:
    await database.execute(
        "WITH a AS (DELETE FROM attachments), q AS (DELETE FROM quarantined_webhooks) DELETE FROM incoming_emails"
    )
