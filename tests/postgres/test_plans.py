"""A statement reads in proportion to its result and not to the table, under any assumption of the planner."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from pydantic import SecretStr

from benchmarks.growth_database import BATCH, Database, Operation, opened
from benchmarks.growth_operations import changes, questions
from benchmarks.growth_plans import Node, generic_plans, nodes, pages, plans
from benchmarks.growth_rows import CLAIMED, EXPIRED, fill, settle
from service.alerts import webhooks
from service.alerts.causes import find_conditions
from service.alerts.condition import COUNT_CAP
from service.alerts.record import Turn
from service.backfill.lost import lost_webhooks
from service.config.settings import Settings
from service.evidence.verify_tree import STEP as LEAVES
from service.jobs import discovery
from service.jobs.discovery import Discovery, Mark
from service.postgres import search
from service.postgres.engine import connect
from service.postgres.search import EXAMINED
from service.postgres.selection import Selection
from service.postgres.words import BLOCK_BITS
from service.queries.changes import MAX_SEEN
from service.queries.days import DAY_CAP
from service.reconcile.expected import STEP
from tests.conftest import migrate

pytestmark = pytest.mark.long

EMAILS = 50_000
# Seconds between two e-mails. At any hour, a day has so few that an index finds them best.
PAUSE = 10
# The most rows that one step of a plan may read: a batch, and when jobs are taken back also those in
# progress.
MOST_ROWS = max(2 * BATCH, EXPIRED + CLAIMED)
MOST_SORTED = 200  # the attachments of a page
MOST_PAGES = 4_500  # of 8 kB: a batch is changed in several indexes
BLOCK = max(1 << BLOCK_BITS, EXAMINED * 13 // 10)  # the e-mails of a word, or files: an e-mail has 1.2 here
# The most rows that a search for a text reads. Groups are counted separately, and the overview counts a day:
# that may be all rows here.
STEPS = {
    "list groups": EMAILS,
    "list": 2 * BLOCK,
    "retry many": 2 * BLOCK,
    "dismiss many": 2 * BLOCK,
    "plan": 2 * BLOCK,
    "back-fill": 10 * 1_000,  # a page has a thousand comments
    "purge": EXAMINED,
    "evidence": 2 * LEAVES,
    "overview": EMAILS,
    "ledger, newest days": 2 * EMAILS + 1_000,  # all are of these days; a plan rounds its numbers
    "ledger": 2 * DAY_CAP,
    "tail": 4 * MAX_SEEN,
    "reconcile: a step": 2 * STEP,
    "reconcile: count": COUNT_CAP,
}
# The first two and the last have few rows, in a table of any size. Of the words, a step reads the block of an e-mail.
OF_FEW = (
    *("ix_incoming_emails_lease", "uq_alerts_open", "ix_email_words_words"),
    "ix_messages_original_sha256",  # most accounts give no originals
)
SMALL = (
    *("bulk_retries", "operator_actions", "workers", "reconciliations", "reconciliation_findings"),
    *("acknowledgements", "saved_filters", "evidence_log", "evidence_heads", "evidence_verifications"),
    *("evidence_nodes", "evidence_entries_id_seq", "held_emails", "retention_rules", "ignored_webhooks"),
    *("alert_watch", "pg_authid", "pg_database", "sources", "backfills", "connections", "holds"),
    *("tickets", "objects_to_remove", "erasure_salts", "tombstones"),  # no rows here
)

WAITING = "processing_status IN ('received', 'queued')"
# More than is counted; of rows that are all OLD, the overview would read each again to count the day's.
LATER = f"id BETWEEN {EMAILS * 3 // 4} AND {EMAILS - 1000}"
OLD = f"id BETWEEN {EMAILS // 2} AND {EMAILS - 1000}"
# Each from a day after the planner's last statistics.
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
    """Create a database to copy, with statistics; copies take no new ones."""
    url = database_url.replace("/postgres?", "/plans?")

    async def make() -> None:
        server = await asyncpg.connect(database_url)
        await server.execute("CREATE DATABASE plans")
        await server.close()
        await asyncio.to_thread(migrate, url, "upgrade", "head")
        database = await asyncpg.connect(url)
        for table in (
            "incoming_emails",
            "attachments",
            "attempts",
            "messages",
            "email_words",
            "quarantined_webhooks",
            "source_emails",
            "suspended_emails",
            "evidence_entries",
            "evidence_leaves",
            "removed_emails",
        ):
            await database.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await fill(database, EMAILS, pause=PAUSE)
        await settle(database)
        await database.close()

    asyncio.run(make())
    return url


@pytest.fixture(scope="module", params=DAYS)
def changed(request: pytest.FixtureRequest, filled: str) -> Iterator[str]:
    """Make the database of a day. All tests share it, since each takes back what it changes."""
    server, url = filled.replace("/plans?", "/postgres?"), filled.replace("/plans?", "/plans_copy?")
    asyncio.run(execute(server, "CREATE DATABASE plans_copy TEMPLATE plans STRATEGY FILE_COPY"))
    asyncio.run(execute(url, *DAYS[request.param]))
    yield url
    asyncio.run(execute(server, "DROP DATABASE plans_copy WITH (FORCE)"))


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@pytest.fixture
async def db(changed: str) -> AsyncIterator[Database]:
    async with opened(changed) as db:
        yield db


async def test_reads_do_not_grow_with_the_table(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # To count a fifth of so small a table, Postgres rightly reads all of it.
    monkeypatch.setattr(search, "COUNTED", 1_000)
    operations = {**changes(db), **questions(db)}
    troubles = {
        name: found
        for name, operation in operations.items()
        if (found := await troubles_of(db, name, operation))
    }

    assert troubles == {}, repr(troubles)


# Postgres makes these plans from statistics, which no day changes, and from the size of the tables.
@pytest.mark.parametrize("changed", ["as usual", "everything fails"], indirect=True)
async def test_a_generic_plan_uses_an_index_too(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres may use a generic plan from the sixth run of a statement on a connection."""
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

    assert troubles == {}, repr(troubles)


@pytest.mark.parametrize("changed", ["as usual"], indirect=True)
async def test_failed_syncs_are_counted_without_reading_their_rows(db: Database) -> None:
    found = await plans(db, lambda: search.count(db.conn, Selection(sync_status="failed")))
    scans = [node for plan in found for node in nodes(plan) if "Index Name" in node]

    assert [(scan["Node Type"], scan["Index Name"]) for scan in scans] == [
        ("Index Only Scan", "ix_incoming_emails_failed_syncs")
    ]


def is_blind(node: Node) -> bool:
    """Say whether a step scans a large table and filters rows that an index could have found."""
    scan = node["Plans"][0] if node["Node Type"] == "Bitmap Heap Scan" else node
    is_narrowed = "Index Cond" in scan or scan["Node Type"] in {"BitmapOr", "BitmapAnd"}
    is_large = node.get("Relation Name", SMALL[0]) not in SMALL and scan.get("Index Name") not in OF_FEW
    return is_large and (node["Node Type"] == "Seq Scan" or ("Filter" in node and not is_narrowed))


async def test_the_watch_for_alerts_reads_no_more(db: Database) -> None:
    """It counts, for each error too, and reads as many rows as it counts."""
    settings = Settings(sync_url=(SecretStr("mongodb://mongodb.example/archive.emails"),))
    turn = Turn(1, 10**9, 0, None, None)

    async def find() -> None:
        async with connect(db.engine) as conn:
            await webhooks.newest_arrival(conn)
            now = datetime.now(UTC)
            await webhooks.find_silence(conn, now - timedelta(days=10), now, None, {})
            await find_conditions(conn, settings, turn, {})

    found = await plans(db, find)

    assert [
        trouble for plan in found for node in nodes(plan) for trouble in troubles_in(node, 2 * COUNT_CAP)
    ] == []


async def test_a_back_fill_reads_no_more(db: Database) -> None:
    """A page has a thousand comments; what waits is counted up to a thousand."""
    found = [Discovery(f"{number}", f"{number}", datetime.now(UTC)) for number in range(1, 1_001)]
    marks = [Mark(f"{number}", f"{number}", "redacted") for number in range(1, 101)]

    async def work() -> None:
        conn = db.conn
        await discovery.add(conn, "21978514", found, origin="backfill", sync_status="pending")
        await discovery.count_missing(conn, "21978514", found)
        await discovery.mark(conn, "21978514", marks)
        await discovery.learn_account(conn, "21978514", 500)
        await discovery.adopt_nameless(conn, "21978514", 5_000)
        await lost_webhooks(conn)

    found_plans = await plans(db, work)

    assert [
        trouble
        for plan in found_plans
        for node in nodes(plan)
        for trouble in troubles_in(node, 10 * len(found))
    ] == []


async def troubles_of(db: Database, name: str, operation: Operation) -> list[str]:
    step = next((most for start, most in STEPS.items() if name.startswith(start)), None)
    found = []
    for plan in await plans(db, operation):
        found += [trouble for node in nodes(plan) for trouble in troubles_in(node, step)]
        if pages(plan) > _most_pages(name, plan, step):
            found.append(f"{pages(plan)} pages")
    return found


def _most_pages(name: str, plan: Node, step: int | None) -> int:
    """Return the most pages of a plan; the ledger looks for each e-mail in a few indexes, each with some levels."""
    if name.startswith("ledger"):
        return 12 * 2 * DAY_CAP
    if name.startswith("evidence"):
        return 5 * LEAVES  # each leaf and its entry, in an index of some levels
    return len([*nodes(plan)]) * EXAMINED if step else MOST_PAGES


def troubles_in(node: Node, step: int | None) -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name")
    dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    rows = (node["Actual Rows"] + dropped) * node["Actual Loops"]
    if table and table not in SMALL and kind == "Seq Scan":
        yield f"{kind} on {table}"
    if rows > (step or (MOST_SORTED if kind.endswith("Sort") else MOST_ROWS)):
        yield f"{kind} of {rows:.0f} rows by {node.get('Index Name')}"
