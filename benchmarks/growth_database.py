"""A filled database, with rows of every kind, and what the operations on it share."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

import asyncpg
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.config.settings import Settings
from service.postgres.engine import connect, create_engine
from service.postgres.selection import BulkTask
from service.queries import pages
from service.resources import Resources

LEASE = timedelta(seconds=30)
SYNCING = Settings(
    sync_url=(SecretStr("https://erp.acme.example/holdfast"),),
    sync_webhook_secret=(SecretStr("whsec_aG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3Q="),),
)
LISTED, ACCOUNT = "account.zendesk.com", "13000001"
ASKING = Settings(
    zendesk_url=f"https://{LISTED}",
    zendesk_oauth_token=SecretStr("token"),
    sync_url=SYNCING.sync_url,
    sync_webhook_secret=SYNCING.sync_webhook_secret,
)
DISMISS, UNDISMISS = BulkTask("dismiss", reason="Redacted."), BulkTask("undismiss")
BATCH = 100

T = TypeVar("T")
Operation = Callable[[], Awaitable[object]]


@dataclass(frozen=True, repr=False)
class Database:
    """A filled database, a connection whose statements are rolled back, and rows of every kind."""

    bytes: int
    engine: AsyncEngine
    conn: AsyncConnection
    received: Sequence[int]
    claimed: Sequence[int]
    to_sync: Sequence[int]
    failed: Sequence[int]
    spread: Sequence[int]  # old and new, evenly
    keys: Sequence[str]  # of `spread`
    ticket: str
    sha256: str
    middle_id: int  # of an e-mail in the middle
    old: datetime  # when it was received
    middle: Mapping[str | None, str]  # by status, a cursor to the middle of the list


@dataclass(frozen=True)
class RolledBack:
    """What a step needs of the resources of a process; its statements join the open transaction."""

    engine: AsyncEngine
    conn: AsyncConnection
    settings: Settings = ASKING

    async def run(self, statement: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        return await statement(self.conn)


def resources_of(db: Database) -> Resources:
    return cast("Resources", RolledBack(db.engine, db.conn))


async def run_on(db: Database, *statements: Callable[[AsyncConnection], Awaitable[object]]) -> None:
    async with connect(db.engine) as conn:
        for statement in statements:
            await statement(conn)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open a filled database, and look up the rows for its operations."""
    engine = create_engine(url, pool_size=2, seconds=60)
    database = await asyncpg.connect(url)
    try:
        found = await _look_up(database)
        async with engine.connect() as conn:
            await conn.execution_options(isolation_level="READ COMMITTED")
            yield Database(engine=engine, conn=conn, **found)
    finally:
        await database.close()
        await engine.dispose()


async def _look_up(database: asyncpg.Connection) -> dict[str, Any]:
    size = await database.fetchval("SELECT max(id) FROM incoming_emails")
    spread = [1 + number * (size - 1000) // BATCH for number in range(BATCH)]

    async def first(status: str) -> list[int]:
        query = "SELECT id FROM incoming_emails WHERE processing_status = $1 ORDER BY received_at LIMIT 300"
        return [row["id"] for row in await database.fetch(query, status)]

    async def middle(status: str, column: str = "processing_status") -> str:
        near = f"SELECT id, received_at FROM incoming_emails WHERE id >= $1 AND {column} = $2 ORDER BY id LIMIT 1"  # noqa: S608 ours
        row: Any = await database.fetchrow(near, spread[50], status)
        return str(pages.cut([row, row], 1)[1])

    claimed = "SELECT id FROM incoming_emails WHERE processing_status = 'processing' AND lease_until > now()"
    to_sync = "SELECT id FROM incoming_emails WHERE sync_status = 'pending' AND processing_status IN ('completed', 'failed') LIMIT 300"
    keys = "SELECT idempotency_key FROM incoming_emails WHERE id = ANY($1)"
    return {
        "spread": spread,
        "bytes": await database.fetchval("SELECT pg_database_size(current_database())"),
        "received": await first("received"),
        "failed": await first("failed"),
        "claimed": [row["id"] for row in await database.fetch(claimed)],
        "to_sync": [row["id"] for row in await database.fetch(to_sync)],
        "keys": [row["idempotency_key"] for row in await database.fetch(keys, spread)],
        "ticket": await database.fetchval(
            "SELECT zendesk_ticket_id FROM incoming_emails WHERE id = $1", spread[50]
        ),
        "sha256": await database.fetchval(
            "SELECT sha256 FROM attachments WHERE email_id > $1 LIMIT 1", spread[50]
        ),
        "middle_id": spread[50],
        "old": await database.fetchval("SELECT received_at FROM incoming_emails WHERE id = $1", spread[50]),
        "middle": {
            None: await middle("completed"),
            "completed": await middle("completed"),
            "not synced": await middle("failed", "sync_status"),
            "failed": await middle("failed"),
        },
    }
