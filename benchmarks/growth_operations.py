"""The service's operations on a database, by name, through its own functions."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.config.settings import Settings
from service.jobs import arrival, attempts, bulk_retries, refetch, syncs, waiting
from service.jobs import retries as job_retries
from service.jobs.arrival import Arrival
from service.jobs.attempts import Claim, ClaimRequest, Settlement
from service.jobs.bulk_retries import BulkRetryStep
from service.jobs.syncs import SyncClaim, SyncClaimRequest
from service.jobs.waiting import Job
from service.operate.bulk_retry import EXAMINED
from service.postgres.engine import connect, create_engine
from service.postgres.search import search
from service.postgres.selection import Selection
from service.queries import actions, emails, failures, overview, pages, reconciliations, retries, webhooks
from service.queries.changes import list_changes
from service.queries.emails import EmailFilter
from service.queries.pages import PageFilter
from service.queries.webhooks import QuarantineFilter
from service.queue.suspects import Suspects
from service.reconcile import contents, expected
from service.reconcile.repair import resync
from service.targets.document import read_records

LEASE = timedelta(seconds=30)
SYNCING = Settings(
    sync_url=(SecretStr("https://erp.acme.example/holdfast"),),
    sync_webhook_secret=(SecretStr("whsec_aG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3Q="),),
)
BATCH = 100

Operation = Callable[[], Awaitable[object]]


@dataclass(frozen=True, repr=False)
class Database:
    """A filled database, a connection whose statements are rolled back, and rows of every kind."""

    bytes: int
    engine: AsyncEngine
    conn: AsyncConnection
    received: Sequence[int]
    held: Sequence[int]
    to_carry: Sequence[int]
    failed: Sequence[int]
    spread: Sequence[int]  # old and new, evenly
    keys: Sequence[str]  # of `spread`
    ticket: str
    sha256: str
    old: datetime  # `received_at` of an e-mail in the middle
    middle: Mapping[str | None, str]  # by status, a cursor to the middle of the list


def changes(db: Database) -> dict[str, Operation]:
    """Return the operations that write, by name; the caller rolls them back."""
    conn, one = db.conn, random.choice
    claimed = Claim(one(db.held), 1, 0, "1", None)
    carried = SyncClaim(one(db.to_carry), 1, 0, 0, 0)
    file = {
        "position": 0,
        "source_url": "https://x",
        "file_name": "a",
        "declared_type": None,
        "declared_size": 9,
    }

    async def sweep() -> None:
        await attempts.take_back(conn, BATCH, spread=LEASE)
        await waiting.take_due(conn, BATCH)
        await waiting.take_suspects(conn, await waiting.next_abandoned_count(conn) or 1, BATCH)

    async def retry_many(wanted: Selection) -> None:
        way = search(wanted, examined=EXAMINED)
        number = await bulk_retries.begin(
            conn, "job", actor="ada", filter={}, per_second=BATCH, planned=1, planned_capped=False
        )
        step = BulkRetryStep(number, "ada", None)
        await bulk_retries.retry_next(conn, step, "job", way.found(BATCH), way.stop(BATCH))

    async def sync_many(wanted: Selection) -> None:
        way = search(wanted, examined=EXAMINED, finished_before=datetime.now(UTC))
        number = await bulk_retries.begin(
            conn, "sync", actor="ada", filter={}, per_second=BATCH, planned=1, planned_capped=False
        )
        step = BulkRetryStep(number, "ada", None)
        await bulk_retries.retry_next(conn, step, "sync", way.found(BATCH), way.stop(BATCH))

    def arrivals(keys: Sequence[str]) -> list[Arrival]:
        columns = {"zendesk_ticket_id": "1", "raw_body": b"x" * 600, "attachment_urls": []}
        return [Arrival({**columns, "idempotency_key": key}, [file]) for key in keys]

    stamp = f"invocation:{datetime.now(UTC):%Y%m%d%H%M%S%f}"
    ordered = [f"{stamp}{number}" for number in range(BATCH)]
    scattered = [f"sha256:{random.randbytes(32).hex()}" for _ in range(BATCH)]  # noqa: S311
    return {
        "receive 100 new e-mails": lambda: arrival.receive(conn, arrivals(ordered)),
        "receive 100, keys in no order": lambda: arrival.receive(conn, arrivals(scattered)),
        "receive 100 that are on record": lambda: arrival.receive(conn, arrivals(db.keys)),
        "mark 100 as queued": lambda: waiting.mark_queued(conn, db.received[:BATCH]),
        "claim": lambda: attempts.claim(conn, [ClaimRequest(Job(one(db.received), 1), "worker", LEASE)]),
        "renew 20 leases": lambda: attempts.renew(conn, [(number, 1) for number in db.held[:20]], LEASE),
        "complete": lambda: attempts.settle(conn, [Settlement(claimed, "completed")]),
        "rescue 100": lambda: attempts.take_back(conn, BATCH, spread=LEASE),
        "take 100 that are due": lambda: waiting.take_due(conn, BATCH),
        "sweep: rescue, then take": sweep,
        "retry many, a step": lambda: retry_many(Selection(status="failed")),
        "retry many, a step by a text that none holds": lambda: retry_many(
            Selection(status="failed", q="unicorn")
        ),
        "retry many syncs, a step": lambda: sync_many(Selection(sync_status="failed")),
        "retry many syncs, a step by what none is": lambda: sync_many(
            Selection(sync_status="not_applicable")
        ),
        "claim a sync": lambda: syncs.claim(conn, [SyncClaimRequest(one(db.to_carry), LEASE)]),
        "take 100 syncs that are due": lambda: syncs.claim_due(conn, BATCH, LEASE, Suspects(16).room_for),
        "settle a sync": lambda: syncs.settle(conn, [syncs.SyncSettlement(carried, "synced")]),
        "let go of 100 syncs": lambda: syncs.drop_overdue(conn, BATCH, LEASE),
        "sync one once more": lambda: job_retries.retry(conn, [one(db.failed)], "tests", "sync"),
        "sync 100 again that differ": lambda: resync(
            conn, [expected.SyncState(number, "", 1, 0, "synced", None, True) for number in db.spread[:BATCH]]
        ),
        "fetch a content again": lambda: refetch.reopen(conn, db.sha256, "tests"),
        "retry a failed one": lambda: job_retries.retry(conn, [one(db.failed)], "tests"),
    }


def questions(db: Database) -> dict[str, Operation]:
    """Return the operations that read, by name."""

    def listed(status: str | None = None, ticket: str | None = None, **more: object) -> Operation:
        wanted = EmailFilter.model_validate({"status": status, "ticket": ticket, **more})
        return lambda: emails.list_emails(db.engine, wanted)

    def quarantined(*, replayed: bool) -> Operation:
        return lambda: webhooks.list_quarantined(db.engine, QuarantineFilter(replayed=replayed))

    async def carried() -> None:
        async with connect(db.engine) as conn:
            await read_records(conn, db.spread)

    async def asked(*statements: Callable[[AsyncConnection], Awaitable[object]]) -> None:
        async with connect(db.engine) as conn:
            for statement in statements:
                await statement(conn)

    some = random.choice(db.spread)  # noqa: S311
    old = db.old
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
        "list a sender": listed(sender=f"SOMEONE.{some}@customer.example"),
        "list an error": listed(error_code="http_500"),
        "list a group of failures": listed("failed", error_code="http_500", host="host-1.customer.example"),
        "list what came in an hour": listed(received_after=old, received_before=old + timedelta(hours=1)),
        "list what came in an hour and failed": listed(
            "failed", received_after=old, received_before=old + timedelta(hours=1)
        ),
        "list a text that many hold": listed(q="about order number"),
        "list a text that none holds": listed(q="unicorn"),
        "list the failed with a text that none holds": listed("failed", q="unicorn"),
        "list a file's name": listed(q="invoice.p"),
        "list what could not be synced": listed(sync_status="failed"),
        "list what could not be synced, from the middle": listed(
            sync_status="failed", cursor=db.middle["not synced"]
        ),
        "list what could not be synced, of a group of failures": listed(
            "failed", error_code="http_500", sync_status="failed"
        ),
        "list `completed` that could not be synced": listed("completed", sync_status="failed"),
        "list what could not be synced with a code that there is not": listed(
            sync_status="failed", sync_error_code="none"
        ),
        "list what waits for its sync": listed(sync_status="pending"),
        "list `completed` that wait for their sync": listed("completed", sync_status="pending"),
        "list what had no target: none": listed(sync_status="not_applicable"),
        "list for an export, with all details": lambda: emails.list_details(
            db.engine, EmailFilter(limit=200)
        ),
        "see what moves": lambda: list_changes(db.engine, Selection(), db.spread[:100]),
        "see what moves and has a text": lambda: list_changes(db.engine, Selection(q="x"), db.spread[:100]),
        "read 100 that are to be carried": carried,
        "reconcile: where to begin and to end": lambda: asked(lambda conn: expected.bounds(conn, old)),
        "reconcile: what waits and what failed": lambda: asked(
            lambda conn: expected.count_waiting(conn, some)
        ),
        "reconcile: a step of what was never sent": lambda: asked(
            lambda conn: expected.unsynced_from(conn, some, some + 10**9)
        ),
        "reconcile: some to look at again": lambda: asked(
            lambda conn: expected.states_of(conn, db.spread),
            lambda conn: expected.known_keys(conn, db.keys),
        ),
        "reconcile: a step of e-mails": lambda: asked(
            lambda conn: expected.states_from(conn, some, some + 10**9),
            lambda conn: expected.digests(conn, range(some, some + 200), Settings()),
        ),
        "reconcile: a page of contents": lambda: asked(
            lambda conn: contents.contents_between(conn, "ab", "abg", BATCH),
            lambda conn: contents.contents_since(conn, some, -1, BATCH),
            lambda conn: contents.known_contents(conn, [db.sha256]),
        ),
        "list reconciliations": lambda: reconciliations.list_reconciliations(db.engine, PageFilter()),
        "list groups of failures": lambda: failures.list_failures(db.engine),
        "list who holds a content": lambda: emails.list_holders(db.engine, db.sha256),
        "list the retries of many": lambda: retries.list_retries(db.engine),
        "list what operators did": lambda: actions.list_actions(db.engine, PageFilter()),
        "overview, counts and the oldest age": lambda: overview.stats(db.engine),
        "overview, all of it": lambda: overview.summarize(db.engine, SYNCING),
    }


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

    held = "SELECT id FROM incoming_emails WHERE processing_status = 'processing' AND lease_until > now()"
    to_carry = "SELECT id FROM incoming_emails WHERE sync_status = 'pending' AND processing_status IN ('completed', 'failed') LIMIT 300"
    keys = "SELECT idempotency_key FROM incoming_emails WHERE id = ANY($1)"
    return {
        "spread": spread,
        "bytes": await database.fetchval("SELECT pg_database_size(current_database())"),
        "received": await first("received"),
        "failed": await first("failed"),
        "held": [row["id"] for row in await database.fetch(held)],
        "to_carry": [row["id"] for row in await database.fetch(to_carry)],
        "keys": [row["idempotency_key"] for row in await database.fetch(keys, spread)],
        "ticket": await database.fetchval(
            "SELECT zendesk_ticket_id FROM incoming_emails WHERE id = $1", spread[50]
        ),
        "sha256": await database.fetchval(
            "SELECT sha256 FROM attachments WHERE email_id > $1 LIMIT 1", spread[50]
        ),
        "old": await database.fetchval("SELECT received_at FROM incoming_emails WHERE id = $1", spread[50]),
        "middle": {
            None: await middle("completed"),
            "completed": await middle("completed"),
            "not synced": await middle("failed", "sync_status"),
            "failed": await middle("failed"),
        },
    }
