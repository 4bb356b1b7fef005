"""How flat it stays: each statement with ten thousand e-mails on record, and with a thousand times as many.

python -m benchmarks.growth --sizes 10000,1000000,10000000 --directory DATA
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from benchmarks.growth_rows import fill, settle
from service.database import create_engine
from service.jobs import arriving, running, waiting
from service.jobs.arriving import Arrival
from service.jobs.running import Claim
from service.jobs.waiting import Job
from service.local.servers import postgres
from service.queries import emails, overview, quarantine
from service.queries.emails import EmailFilter
from service.queries.quarantine import QuarantineFilter

PAGE = Path(__file__).with_suffix("").with_name("GROWTH.md")
LEASE = timedelta(seconds=30)
BATCH = 100
# For the time that it takes to fill: what is on record afterwards is the same.
SETTINGS = (
    "autovacuum = off",
    "checkpoint_timeout = '30min'",
    "full_page_writes = off",
    "maintenance_work_mem = '768MB'",
    "max_wal_size = '4GB'",
    "synchronous_commit = off",
)

Operation = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Database:
    """A database of so many e-mails, a connection in a transaction of its own, and ids of every kind."""

    size: int
    bytes: int
    engine: AsyncEngine
    conn: AsyncConnection
    received: Sequence[int]
    held: Sequence[int]
    failed: Sequence[int]
    spread: Sequence[int]  # evenly, old and new
    keys: Sequence[str]  # theirs
    ticket: str
    middle: Mapping[str | None, str]  # by status, a cursor to the middle of the list


def changes(db: Database) -> dict[str, Operation]:
    """What writes; it is rolled back afterwards."""
    conn, one = db.conn, random.choice
    claimed = Claim(one(db.held), 1, 0, "1", None)
    file = {
        "position": 0,
        "source_url": "https://x",
        "file_name": "a",
        "declared_type": None,
        "declared_size": 9,
    }

    async def sweep() -> None:
        await running.rescue(conn, 5, BATCH, spread=LEASE)
        await waiting.take_due(conn, BATCH)

    def arrivals(keys: Sequence[str]) -> list[Arrival]:
        columns = {"zendesk_ticket_id": "1", "raw_body": b"x" * 600, "attachment_urls": []}
        return [Arrival({**columns, "idempotency_key": key}, [file]) for key in keys]

    stamp = f"invocation:{datetime.now(UTC):%Y%m%d%H%M%S%f}"
    ordered = [f"{stamp}{number}" for number in range(BATCH)]
    scattered = [f"sha256:{random.randbytes(32).hex()}" for _ in range(BATCH)]  # noqa: S311
    return {
        "receive 100 new e-mails": lambda: arriving.receive(conn, arrivals(ordered)),
        "receive 100, keys in no order": lambda: arriving.receive(conn, arrivals(scattered)),
        "receive 100 that are on record": lambda: arriving.receive(conn, arrivals(db.keys)),
        "mark 100 as queued": lambda: waiting.mark_queued(conn, db.received[:BATCH]),
        "claim": lambda: running.claim(conn, Job(one(db.received), 1), "worker", LEASE),
        "renew 20 leases": lambda: running.renew(conn, [(number, 1) for number in db.held[:20]], LEASE),
        "complete": lambda: running.complete(conn, claimed),
        "rescue 100": lambda: running.rescue(conn, 5, BATCH, spread=LEASE),
        "take 100 that are due": lambda: waiting.take_due(conn, BATCH),
        "sweep: rescue, then take": sweep,
        "retry a failed one": lambda: waiting.retry(conn, one(db.failed)),
    }


def questions(db: Database) -> dict[str, Operation]:
    """What reads."""

    def listed(status: str | None = None, ticket: str | None = None, cursor: str | None = None) -> Operation:
        wanted = EmailFilter.model_validate({"status": status, "ticket": ticket, "cursor": cursor})
        return lambda: emails.list_emails(db.engine, wanted)

    def quarantined(*, replayed: bool) -> Operation:
        return lambda: quarantine.list_quarantined(db.engine, QuarantineFilter(replayed=replayed))

    some = random.choice(db.spread)  # noqa: S311
    return {
        "one e-mail with its history": lambda: emails.get_email(db.engine, some),
        "list, newest": listed(),
        "list, from the middle": listed(cursor=db.middle[None]),
        "list `completed`": listed("completed"),
        "list `completed`, from the middle": listed("completed", cursor=db.middle["completed"]),
        "list `failed`": listed("failed"),
        "list `failed`, from the middle": listed("failed", cursor=db.middle["failed"]),
        "list `queued`": listed("queued"),
        "list a ticket": listed(ticket=db.ticket),
        "list a ticket's `completed`": listed("completed", db.ticket),
        "list a ticket's `failed`: none": listed("failed", db.ticket),
        "list a ticket that there is not": listed(ticket="none"),
        "list quarantine, waiting": quarantined(replayed=False),
        "list quarantine, replayed": quarantined(replayed=True),
        "overview, with the oldest age": lambda: overview.stats(db.engine),
    }


async def timed(db: Database, name: str) -> float:
    if operation := questions(db).get(name):
        begun = time.perf_counter()
        await operation()
        return time.perf_counter() - begun
    await db.conn.exec_driver_sql("SELECT 1")  # begins the transaction
    operation = changes(db)[name]
    begun = time.perf_counter()
    await operation()
    seconds = time.perf_counter() - begun
    await db.conn.rollback()
    return seconds


async def measure(databases: Sequence[Database], rounds: int) -> dict[str, list[float]]:
    """Return the median seconds of each operation, one for each database; the first rounds only warm up."""
    names = [*changes(databases[0]), *questions(databases[0])]
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in databases] for name in names}
    for number in range(-8, rounds):
        for name in names:
            for place in random.sample(range(len(databases)), len(databases)):
                took = await timed(databases[place], name)
                if number >= 0:
                    seconds[name][place].append(took)
    return {name: [median(some) for some in each] for name, each in seconds.items()}


async def prepare(url: str, size: int) -> Database:
    """Fill a database, unless one of this size is there, and look up what will be asked for."""
    name = f"growth_{size}"
    own = url.replace("/postgres?", f"/{name}?")
    server = await asyncpg.connect(url)
    if not await server.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        for setting in SETTINGS:
            await server.execute(f"ALTER SYSTEM SET {setting}")
        await server.execute("SELECT pg_reload_conf()")
        await server.execute(f"CREATE DATABASE {name}")
    await server.close()
    environment = {**os.environ, "DATABASE_URL": own}
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    await asyncio.to_thread(subprocess.run, command, env=environment, check=True)
    database = await asyncpg.connect(own)
    if not await database.fetchval("SELECT 1 FROM incoming_emails LIMIT 1"):
        await fill(database, size)
    await settle(database)
    engine = create_engine(own, pool_size=2, seconds=60)
    conn = await engine.connect()
    await conn.execution_options(isolation_level="READ COMMITTED")
    spread = [1 + number * (size - 1000) // BATCH for number in range(BATCH)]
    try:
        return Database(size, engine=engine, conn=conn, spread=spread, **await look_up(database, spread))
    finally:
        await database.close()


async def look_up(database: asyncpg.Connection, spread: Sequence[int]) -> dict[str, Any]:
    async def first(status: str) -> list[int]:
        query = "SELECT id FROM incoming_emails WHERE processing_status = $1 ORDER BY received_at LIMIT 300"
        return [row["id"] for row in await database.fetch(query, status)]

    async def middle(status: str) -> str:
        near = "SELECT id, received_at FROM incoming_emails WHERE id >= $1 AND processing_status = $2 ORDER BY id LIMIT 1"
        return str(emails.cut([*[dict(await database.fetchrow(near, spread[50], status))] * 2], 1)[1])

    held = "SELECT id FROM incoming_emails WHERE processing_status = 'processing' AND lease_until > now()"
    keys = "SELECT idempotency_key FROM incoming_emails WHERE id = ANY($1)"
    return {
        "bytes": await database.fetchval("SELECT pg_database_size(current_database())"),
        "received": await first("received"),
        "failed": await first("failed"),
        "held": [row["id"] for row in await database.fetch(held)],
        "keys": [row["idempotency_key"] for row in await database.fetch(keys, spread)],
        "ticket": await database.fetchval(
            "SELECT zendesk_ticket_id FROM incoming_emails WHERE id = $1", spread[50]
        ),
        "middle": {
            None: await middle("completed"),
            "completed": await middle("completed"),
            "failed": await middle("failed"),
        },
    }


def table(databases: Sequence[Database], seconds: Mapping[str, Sequence[float]]) -> str:
    """Write the page: what each operation takes, as a multiple of its time in the smallest database."""
    sizes = " | ".join(f"{db.size:,}" for db in databases)
    stored = " | ".join(f"{db.bytes / db.size / 1000:.1f} kB each" for db in databases)
    lines = [f"| operation | {sizes} |", f"|---|{'---:|' * len(databases)}", f"| on disk | {stored} |"]
    for name, (least, *others) in seconds.items():
        ratios = " | ".join(f"{other / least:.2f}" for other in others)
        lines.append(f"| {name} | 1 | {ratios} |")
    return "\n".join(lines)


async def run(url: str, sizes: Sequence[int], rounds: int) -> str:
    databases = [await prepare(url, size) for size in sizes]
    try:
        seconds = await measure(databases, rounds)
    finally:
        for db in databases:
            await db.conn.close()
            await db.engine.dispose()
    for name, each in seconds.items():
        print(f"{name:36}", *(f"{second * 1000:8.2f} ms" for second in each))
    return table(databases, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,1000000", help="e-mails on record, the smallest first")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument(
        "--directory", type=Path, help="keep the databases here, and use those that are there"
    )
    parser.add_argument("--url", help="use this Postgres instead of starting one")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE.name}, too")
    wanted = parser.parse_args()
    sizes = [int(size) for size in wanted.sizes.split(",")]
    if wanted.url:
        print(asyncio.run(run(wanted.url, sizes, wanted.rounds)))
        return
    with tempfile.TemporaryDirectory() as temporary, postgres(wanted.directory or Path(temporary)) as url:
        print(asyncio.run(run(url.replace("postgres@", "postgres:any@"), sizes, wanted.rounds)))


if __name__ == "__main__":
    main()
