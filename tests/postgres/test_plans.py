"""What a statement reads depends on what it gives, and not on how much there is, whatever the planner believes."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from pydantic import SecretStr

from benchmarks.growth_operations import BATCH, Database, Operation, changes, opened, questions
from benchmarks.growth_plans import Node, generic_plans, nodes, pages, plans
from benchmarks.growth_rows import CLAIMED, EXPIRED, fill, settle
from service.alerts import silence
from service.alerts.causes import look
from service.alerts.finding import COUNT_CAP
from service.alerts.record import Pass
from service.config.settings import Settings
from service.postgres import search
from service.postgres.engine import connect
from service.postgres.search import EXAMINED
from service.queries.changes import MOST_SEEN
from service.reconcile.expected import STEP
from tests.conftest import migrate

EMAILS = 50_000
# Rows that one step of a plan may read: a batch, or all jobs that are claimed at that time.
MOST_ROWS = max(2 * BATCH, EXPIRED + CLAIMED)
MOST_SORTED = 200  # the attachments of a page
MOST_PAGES = 4_000  # of 8 kB: a batch is changed in several indexes
WITH_FILES = EXAMINED * 13 // 10  # an e-mail has 1.2 of them here
# What looks for a text goes through so many rows at most; but groups are
# counted each for itself, and the overview counts a day: here that may be all there is.
STEPS = {
    "list groups": EMAILS,
    "list": WITH_FILES,
    "retry many": WITH_FILES,
    "overview": EMAILS,
    "tail": 4 * MOST_SEEN,
    "reconcile: a step": 2 * STEP,
    "reconcile: count": COUNT_CAP,
}
OF_FEW = ("ix_incoming_emails_lease", "uq_alerts_open")  # in them are few, however many there are
SMALL = (
    *("bulk_retries", "operator_actions", "workers", "reconciliations", "reconciliation_findings"),
    *("pg_authid", "pg_database"),
)

WAITING = "processing_status IN ('received', 'queued')"
# More than is counted; of all that are OLD the overview would look at each again, to count the day's.
LATER = f"id BETWEEN {EMAILS * 3 // 4} AND {EMAILS - 1000}"
OLD = f"id BETWEEN {EMAILS // 2} AND {EMAILS - 1000}"
# Each a day that came after the planner had last looked.
DAYS: Mapping[str, tuple[str, ...]] = {
    "as usual": (),
    "nearly nothing waits": (
        f"UPDATE incoming_emails SET processing_status = 'completed' WHERE {WAITING}",
        "UPDATE incoming_emails SET processing_status = 'received' WHERE id % 250 = 1",
    ),
    "a burst, all of it rung": (
        f"""
        UPDATE incoming_emails SET due_at = now() + interval '1 h',
            processing_status = CASE id % 2 WHEN 0 THEN 'received' ELSE 'queued' END
        WHERE {OLD}
        """,
    ),
    "an outage, all of it due": (
        f"UPDATE incoming_emails SET processing_status = 'queued', due_at = now() WHERE {OLD}",
    ),
    "no sync succeeds": (
        f"UPDATE incoming_emails SET sync_status = 'failed', sync_due_at = now() WHERE {LATER}",
    ),
    "the target is away": (
        f"UPDATE incoming_emails SET sync_status = 'pending', sync_due_at = now() WHERE {LATER}",
    ),
    "nearly all is synced": (
        "UPDATE incoming_emails SET sync_status = 'synced' WHERE sync_status = 'failed' AND id % 1000 <> 13",
    ),
    "everything fails": (
        f"UPDATE incoming_emails SET processing_status = 'failed' WHERE {OLD}",
        "UPDATE quarantined_webhooks SET replayed_at = NULL",
        """
        INSERT INTO quarantined_webhooks (idempotency_key, raw_body, raw_headers, error_code, error)
        SELECT 'more ' || i, '', '[]', 'not_json', '' FROM generate_series(1, 5000) AS i
        """,
    ),
}


@pytest.fixture(scope="module")
def filled(database_url: str) -> str:
    """Make a database to copy from, with statistics, which no copy takes anew."""
    url = database_url.replace("/postgres?", "/plans?")

    async def make() -> None:
        server = await asyncpg.connect(database_url)
        await server.execute("CREATE DATABASE plans")
        await server.close()
        await asyncio.to_thread(migrate, url, "upgrade", "head")
        database = await asyncpg.connect(url)
        for table in ("incoming_emails", "attachments", "attempts", "quarantined_webhooks"):
            await database.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await fill(database, EMAILS)
        await settle(database)
        await database.close()

    asyncio.run(make())
    return url


@pytest.fixture(params=DAYS)
async def db(request: pytest.FixtureRequest, filled: str) -> AsyncIterator[Database]:
    server = await asyncpg.connect(filled.replace("/plans?", "/postgres?"))
    await server.execute("CREATE DATABASE plans_copy TEMPLATE plans STRATEGY FILE_COPY")
    url = filled.replace("/plans?", "/plans_copy?")
    database = await asyncpg.connect(url)
    for change in DAYS[request.param]:
        await database.execute(change)
    await database.close()
    async with opened(url) as db:
        yield db
    await server.execute("DROP DATABASE plans_copy WITH (FORCE)")
    await server.close()


async def test_what_is_read_does_not_grow_with_the_table(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a table that is so small, Postgres rightly reads all to count a fifth of it.
    monkeypatch.setattr(search, "COUNTED", 1_000)
    operations = {**changes(db), **questions(db)}
    troubles = {
        name: found
        for name, operation in operations.items()
        if (found := await troubles_of(db, name, operation))
    }

    assert troubles == {}


async def test_a_plan_that_is_kept_for_all_parameters_goes_by_an_index_too(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres may keep one from the sixth time on that a connection sends a statement."""
    monkeypatch.setattr(search, "COUNTED", 1_000)  # as above
    operations = {**changes(db), **questions(db)}
    troubles = {
        name: found
        for name, operation in operations.items()
        if (
            found := [
                (node["Node Type"], node.get("Index Name"), node.get("Filter"))
                for plan in await generic_plans(db, operation)
                for node in nodes(plan)
                if is_blind(node)
            ]
        )
    }

    assert troubles == {}


def is_blind(node: Node) -> bool:
    """Tell whether it goes through a large table and looks at each row for what an index could have told."""
    scan = node["Plans"][0] if node["Node Type"] == "Bitmap Heap Scan" else node
    is_large = node.get("Relation Name", SMALL[0]) not in SMALL and scan.get("Index Name") not in OF_FEW
    return is_large and (node["Node Type"] == "Seq Scan" or ("Filter" in node and "Index Cond" not in node))


async def test_to_look_for_what_is_the_matter_reads_no_more(db: Database) -> None:
    """It counts, of each error too, and so reads as far as it counts."""
    settings = Settings(sync_url=(SecretStr("mongodb://mongodb.example/archive.emails"),))
    turn = Pass(1, 10**9, 0, None, None)

    async def find() -> None:
        async with connect(db.engine) as conn:
            await silence.newest_arrival(conn)
            now = datetime.now(UTC)
            await silence.find(conn, now - timedelta(days=10), now, None, {})
            await look(conn, settings, turn, {})

    found = await plans(db, find)

    assert [
        trouble for plan in found for node in nodes(plan) for trouble in troubles_in(node, 2 * COUNT_CAP)
    ] == []


async def troubles_of(db: Database, name: str, operation: Operation) -> list[str]:
    step = next((most for start, most in STEPS.items() if name.startswith(start)), None)
    found = []
    for plan in await plans(db, operation):
        found += [trouble for node in nodes(plan) for trouble in troubles_in(node, step)]
        if pages(plan) > (len([*nodes(plan)]) * EXAMINED if step else MOST_PAGES):
            found.append(f"{pages(plan)} pages")
    return found


def troubles_in(node: Node, step: int | None) -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name")
    dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    rows = (node["Actual Rows"] + dropped) * node["Actual Loops"]
    if table and table not in SMALL and kind == "Seq Scan":
        yield f"{kind} on {table}"
    if rows > (step or (MOST_SORTED if kind.endswith("Sort") else MOST_ROWS)):
        yield f"{kind} of {rows:.0f} rows by {node.get('Index Name')}"
