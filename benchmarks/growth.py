"""Growth: the time of each operation with ten thousand e-mails, and with many more.

python -m benchmarks.growth --sizes 10000,1000000,10000000 --directory DATA --write
"""

import argparse
import asyncio
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import asyncpg
import sqlalchemy

from benchmarks.growth_database import Database, opened
from benchmarks.growth_operations import changes, questions
from benchmarks.growth_plans import pages, plans
from benchmarks.growth_rows import YOUNG, fill, settle
from service.local.servers import postgres

PAGE = Path(__file__).with_name("GROWTH.md")
WARM_UP = 8
SETTINGS = (
    "autovacuum = off",  # it would disturb the measurement; all tables are vacuumed before
    "checkpoint_timeout = '30min'",
    "full_page_writes = off",
    "maintenance_work_mem = '768MB'",
    "max_wal_size = '4GB'",
)
INTRODUCTION = """# Growth

`python -m benchmarks.growth --sizes {sizes} --write`, {when}: {machine}, which
had other work too, Postgres {postgres} as it comes (shared_buffers 128 MB), SQLAlchemy {sqlalchemy}.

The left columns show the time of each operation, through the service's own functions, as a multiple of its time with
{least} e-mails: medians of {rounds} interleaved rounds. The right columns show the exact number of 8 kB pages that
Postgres reads. It grows with the height of the indexes, and where Postgres changes from a plan for small tables to one
for any size.

Postgres generated the rows: {young} e-mails are unfinished, a hundredth of the others failed, each has an attempt, 1.2
attachments on average, and a body of 600 bytes. Writes are rolled back. All pages are in memory, because they were read
before; otherwise each page costs one read of the disk, whatever the number of e-mails.

Zendesk lists an e-mail a second here, so that the smallest database has less than a day. The ledger counts ten days, and
up to 20,000 e-mails of each: it grows up to that limit, and no further.

"""


async def timed(db: Database, name: str) -> float:
    """Return the seconds of an operation in an open transaction, which is rolled back."""
    await db.conn.exec_driver_sql("SELECT 1")
    operation = {**changes(db), **questions(db)}[name]
    begun = time.perf_counter()
    await operation()
    seconds = time.perf_counter() - begun
    await db.conn.rollback()
    return seconds


async def measure(databases: Sequence[Database], names: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Return the median seconds of each operation, one for each database."""
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in databases] for name in names}
    for number in range(-WARM_UP, rounds):
        if number % 10 == 0:
            for db in databases:
                await tidy(db)
        for name in names:
            for index in random.sample(range(len(databases)), len(databases)):
                took = await timed(databases[index], name)
                if number >= 0:
                    seconds[name][index].append(took)
    return {name: [median(some) for some in each] for name, each in seconds.items()}


async def tidy(db: Database) -> None:
    """Remove rolled-back rows, which would soon fill a small table."""
    async with db.engine.connect() as conn:
        for name in ("incoming_emails", "attachments", "attempts"):
            await conn.exec_driver_sql(f"VACUUM (ANALYZE) {name}")


async def prepare(url: str, size: int) -> str:
    """Fill a database of this size if it is missing; return its URL."""
    name = f"growth_{size}"
    own = url.replace("/postgres?", f"/{name}?")
    server = await asyncpg.connect(url)
    if not await server.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        for setting in SETTINGS:
            await server.execute(f"ALTER SYSTEM SET {setting}")
        await server.execute("SELECT pg_reload_conf()")
        await server.execute(f"CREATE DATABASE {name}")
    await server.close()
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    await asyncio.to_thread(subprocess.run, command, env={**os.environ, "DATABASE_URL": own}, check=True)
    database = await asyncpg.connect(own)
    if not await database.fetchval("SELECT 1 FROM incoming_emails LIMIT 1"):
        await fill(database, size)
    await settle(database)
    await database.close()
    return own


async def run(url: str, sizes: Sequence[int], rounds: int) -> str:
    """Measure, and return the text of GROWTH.md."""
    url = url.replace("postgres@", "postgres:any@")
    urls = [await prepare(url, size) for size in sizes]
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(opened(own)) for own in urls]
        names = [*changes(databases[0]), *questions(databases[0])]
        looked_at = {name: [await count(db, name) for db in databases] for name in names}
        seconds = await measure(databases, names, rounds)
        version = (await databases[0].conn.exec_driver_sql("SHOW server_version")).scalar_one()
    for name, each in seconds.items():
        took = "".join(f"{second * 1000:9.2f} ms" for second in each)
        sys.stdout.write(f"{name:36}{took}\n")
    introduction = INTRODUCTION.format(
        sizes=",".join(map(str, sizes)),
        least=f"{sizes[0]:,}",
        rounds=rounds,
        when=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=f"{platform.system()} {platform.machine()} with {os.cpu_count()} processors",
        postgres=version,
        sqlalchemy=sqlalchemy.__version__,
        young=YOUNG,
    )
    stored = [db.bytes / size for db, size in zip(databases, sizes, strict=True)]
    return introduction + table(sizes, stored, seconds, looked_at)


async def count(db: Database, name: str) -> int:
    """Return the number of pages that Postgres reads for an operation."""
    return sum(map(pages, await plans(db, {**changes(db), **questions(db)}[name])))


def table(
    sizes: Sequence[int],
    stored: Sequence[float],
    seconds: Mapping[str, Sequence[float]],
    looked_at: Mapping[str, Sequence[int]],
) -> str:
    """Return the table of times, as multiples of those in the smallest database, and of pages."""
    rows = [
        ("operation", *(f"{size:,}" for size in sizes), *(f"{size:,}: pages" for size in sizes)),
        ("---", *("---:" for _ in [*sizes, *sizes])),
        ("on disk, an e-mail", *(f"{size / 1000:.1f} kB" for size in stored), *("" for _ in sizes)),
    ]
    for name, (least, *others) in seconds.items():
        ratios = (f"{other / least:.2f}" for other in others)
        rows.append((name, "1", *ratios, *(f"{number:,}" for number in looked_at[name])))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,1000000", help="numbers of e-mails, the smallest first")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument(
        "--directory", type=Path, help="directory of the databases, which are kept and used again"
    )
    parser.add_argument("--url", help="Postgres to use instead of starting one")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    wanted = parser.parse_args()
    sizes = [int(size) for size in wanted.sizes.split(",")]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        url = wanted.url or stack.enter_context(postgres(wanted.directory or Path(temporary)))
        page = asyncio.run(run(url, sizes, wanted.rounds))
    sys.stdout.write(f"\n{page}")
    if wanted.write:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
