"""The service's operations on a database, by name, through its own functions."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.config.settings import Settings
from service.jobs import arrival, attempts, bulk_retries, dismissals, refetch, syncs, waiting
from service.jobs import retries as job_retries
from service.jobs.arrival import Arrival
from service.jobs.attempts import Claim, ClaimRequest, Settlement
from service.jobs.bulk_retries import BulkRetryStep
from service.jobs.syncs import SyncClaim, SyncClaimRequest
from service.jobs.waiting import Job
from service.operate.bulk_retry import EXAMINED
from service.postgres.contents import known_contents
from service.postgres.engine import connect, create_engine
from service.postgres.search import search
from service.postgres.selection import RETRY, SYNC, BulkTask, Selection
from service.queries import (
    actions,
    deletable,
    emails,
    failures,
    overview,
    pages,
    reconciliations,
    retries,
    webhooks,
)
from service.queries.changes import list_changes
from service.queries.emails import EmailFilter
from service.queries.pages import PageFilter
from service.queries.remarks import get_remarks
from service.queries.source import SourceFilter, get_ledger
from service.queries.webhooks import QuarantineFilter
from service.queue.suspects import Suspects
from service.reconcile import contents, expected, recount
from service.reconcile.repair import resync
from service.targets.document import read_records

LEASE = timedelta(seconds=30)
SYNCING = Settings(
    sync_url=(SecretStr("https://erp.acme.example/holdfast"),),
    sync_webhook_secret=(SecretStr("whsec_aG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3Q="),),
)
LISTED = "account.zendesk.com"
ASKING = Settings(
    zendesk_url=f"https://{LISTED}",
    zendesk_oauth_token=SecretStr("token"),
)
DISMISS, UNDISMISS = BulkTask("dismiss", reason="Redacted."), BulkTask("undismiss")
BATCH = 100

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
    old: datetime  # `received_at` of an e-mail in the middle
    middle: Mapping[str | None, str]  # by status, a cursor to the middle of the list


def changes(db: Database) -> dict[str, Operation]:
    """Return the operations that write, by name; the caller rolls them back."""
    return {**_arrivals(db), **_changes_of_jobs(db), **_changes_of_syncs(db)}


def questions(db: Database) -> dict[str, Operation]:
    """Return the operations that read, by name."""
    return {**_lists(db), **_lists_of_syncs(db), **_reads(db), **_ledger(db), **_reconciliation(db)}


def _arrivals(db: Database) -> dict[str, Operation]:
    file = {
        "position": 0,
        "source_url": "https://x",
        "file_name": "a",
        "declared_type": None,
        "declared_size": 9,
    }

    def receive(keys: Sequence[str]) -> Operation:
        columns = {"zendesk_ticket_id": "1", "raw_body": b"x" * 600, "attachment_urls": []}
        new = [Arrival({**columns, "idempotency_key": key}, [file]) for key in keys]
        return lambda: arrival.receive(db.conn, new)

    stamp = f"invocation:{datetime.now(UTC):%Y%m%d%H%M%S%f}"
    return {
        "receive 100 new e-mails": receive([f"{stamp}{number}" for number in range(BATCH)]),
        "receive 100, keys in no order": receive(
            [f"sha256:{random.randbytes(32).hex()}" for _ in range(BATCH)]  # noqa: S311
        ),
        "receive 100 duplicates": receive(db.keys),
    }


def _changes_of_jobs(db: Database) -> dict[str, Operation]:
    conn, one = db.conn, random.choice
    claimed = Claim(one(db.claimed), 1, 0, "1", None)

    async def sweep() -> None:
        await attempts.take_back(conn, BATCH, spread=LEASE)
        await waiting.take_due(conn, BATCH)
        await waiting.take_suspects(conn, await waiting.next_abandoned_count(conn) or 1, BATCH)

    return {
        "mark 100 as queued": lambda: waiting.mark_queued(conn, db.received[:BATCH]),
        "claim": lambda: attempts.claim(conn, [ClaimRequest(Job(one(db.received), 1), "worker", LEASE)]),
        "renew 20 leases": lambda: attempts.renew(conn, [(number, 1) for number in db.claimed[:20]], LEASE),
        "complete": lambda: attempts.settle(conn, [Settlement(claimed, "completed")]),
        "take back 100 abandoned jobs": lambda: attempts.take_back(conn, BATCH, spread=LEASE),
        "take 100 due jobs": lambda: waiting.take_due(conn, BATCH),
        "sweep: take back, then take due": sweep,
        "retry many, a step": lambda: _retry_many(db, RETRY, Selection(status="failed")),
        "retry many, a step with a text in no e-mail": lambda: _retry_many(
            db, RETRY, Selection(status="failed", q="unicorn")
        ),
        "dismiss many, a step": lambda: _retry_many(db, DISMISS, Selection(status="failed", dismissed=False)),
        "undismiss many, a step": lambda: _retry_many(db, UNDISMISS, Selection(dismissed=True)),
        "dismiss one": lambda: dismissals.dismiss(conn, [one(db.failed)], "tests", "gone"),
        "undismiss one": lambda: dismissals.undismiss(conn, [one(db.failed)], "tests"),
        "retry one": lambda: job_retries.retry(conn, [one(db.failed)], "tests"),
        "refetch a content": lambda: refetch.reopen(conn, db.sha256, "tests"),
    }


def _changes_of_syncs(db: Database) -> dict[str, Operation]:
    conn, one = db.conn, random.choice
    claimed = SyncClaim(one(db.to_sync), 1, 0, 0, 0)
    return {
        "retry many syncs, a step": lambda: _retry_many(db, SYNC, Selection(sync_status="failed")),
        "retry many syncs, a step without a match": lambda: _retry_many(
            db, SYNC, Selection(sync_status="not_applicable")
        ),
        "claim a sync": lambda: syncs.claim(conn, [SyncClaimRequest(one(db.to_sync), LEASE)]),
        "claim 100 due syncs": lambda: syncs.claim_due(conn, BATCH, LEASE, Suspects(16).room_for),
        "settle a sync": lambda: syncs.settle(conn, [syncs.SyncSettlement(claimed, "synced")]),
        "drop 100 overdue syncs": lambda: syncs.drop_overdue(conn, BATCH, LEASE),
        "retry one sync": lambda: job_retries.retry(conn, [one(db.failed)], "tests", "sync"),
        "repair 100 syncs that differ": lambda: resync(
            conn, [expected.SyncState(number, "", 1, 0, "synced", None, True) for number in db.spread[:BATCH]]
        ),
    }


async def _retry_many(db: Database, task: BulkTask, wanted: Selection) -> None:
    begun_at = datetime.now(UTC)
    before = None if task == RETRY else begun_at
    way = await search(db.conn, wanted, examined=EXAMINED, finished_before=before)
    number = await bulk_retries.begin(
        db.conn, task, actor="ada", filter={}, per_second=BATCH, planned=1, planned_capped=False
    )
    step = BulkRetryStep(number, "ada", None, begun_at, task)
    await bulk_retries.take_step(db.conn, step, way.found(BATCH), way.stop(BATCH))


def _listed(db: Database, status: str | None = None, ticket: str | None = None, **more: object) -> Operation:
    wanted = EmailFilter.model_validate({"status": status, "ticket": ticket, **more})
    return lambda: emails.list_emails(db.engine, wanted)


def _lists(db: Database) -> dict[str, Operation]:
    listed, old, some = partial(_listed, db), db.old, random.choice(db.spread)  # noqa: S311
    hour: dict[str, Any] = {"received_after": old, "received_before": old + timedelta(hours=1)}
    return {
        "list, newest": listed(),
        "list, from the middle": listed(cursor=db.middle[None]),
        "list `completed`": listed("completed"),
        "list `completed`, from the middle": listed("completed", cursor=db.middle["completed"]),
        "list `failed`": listed("failed"),
        "list dismissed": listed(dismissed=True),
        "list `failed` that are not dismissed": listed("failed", dismissed=False),
        "list `failed`, from the middle": listed("failed", cursor=db.middle["failed"]),
        "list `queued`": listed("queued"),
        "list a ticket": listed(ticket=db.ticket),
        "list a ticket's `completed`": listed("completed", db.ticket),
        "list a ticket's `failed`: none": listed("failed", db.ticket),
        "list an unknown ticket": listed(ticket="none"),
        "list a sender": listed(sender=f"SOMEONE.{some}@customer.example"),
        "list an error": listed(error_code="http_500"),
        "list a group of failures": listed("failed", error_code="http_500", host="host-1.customer.example"),
        "list one hour": listed(**hour),
        "list `failed` of one hour": listed("failed", **hour),
        "list a text in many e-mails": listed(q="about order number"),
        "list a text in no e-mail": listed(q="unicorn"),
        "list `failed` with a text in no e-mail": listed("failed", q="unicorn"),
        "list a file's name": listed(q="invoice.p"),
        "list for an export, with all details": lambda: emails.list_details(
            db.engine, EmailFilter(limit=200)
        ),
    }


def _lists_of_syncs(db: Database) -> dict[str, Operation]:
    listed = partial(_listed, db)
    return {
        "list failed syncs": listed(sync_status="failed"),
        "list failed syncs, from the middle": listed(sync_status="failed", cursor=db.middle["not synced"]),
        "list failed syncs of a group of failures": listed(
            "failed", error_code="http_500", sync_status="failed"
        ),
        "list `completed` with a failed sync": listed("completed", sync_status="failed"),
        "list failed syncs with an unknown code": listed(sync_status="failed", sync_error_code="none"),
        "list pending syncs": listed(sync_status="pending"),
        "list `completed` with a pending sync": listed("completed", sync_status="pending"),
        "list without a target: none": listed(sync_status="not_applicable"),
    }


def _reads(db: Database) -> dict[str, Operation]:
    some = random.choice(db.spread)  # noqa: S311

    def quarantined(*, replayed: bool) -> Operation:
        return lambda: webhooks.list_quarantined(db.engine, QuarantineFilter(replayed=replayed))

    return {
        "one e-mail with its history": lambda: emails.get_email(db.engine, some),
        "list quarantine, waiting": quarantined(replayed=False),
        "list quarantine, replayed": quarantined(replayed=True),
        "tail": lambda: list_changes(db.engine, Selection(), db.spread[:100]),
        "tail with a text": lambda: list_changes(db.engine, Selection(q="x"), db.spread[:100]),
        "read 100 documents": lambda: _run(db, lambda conn: read_records(conn, db.spread)),
        "list reconciliations": lambda: reconciliations.list_reconciliations(db.engine, PageFilter()),
        "list groups of failures": lambda: failures.list_failures(db.engine),
        "list e-mails with a content": lambda: emails.list_holders(db.engine, db.sha256),
        "list bulk retries": lambda: retries.list_retries(db.engine),
        "list operators' actions": lambda: actions.list_actions(db.engine, PageFilter()),
        "overview, counts and the oldest age": lambda: overview.stats(db.engine),
        "overview, all of it": lambda: overview.summarize(db.engine, SYNCING),
    }


def _ledger(db: Database) -> dict[str, Operation]:
    def day(name: str) -> Operation:
        wanted = SourceFilter.model_validate({"day": f"{datetime.now(UTC):%Y-%m-%d}", "list": name})
        return lambda: get_ledger(db.engine, ASKING, wanted)

    return {
        "ledger, newest days": lambda: get_ledger(db.engine, ASKING),
        "ledger, what is missing or failed on a day": day("open"),
        "ledger, what is kept of a day": day("kept"),
        "ledger, what of a day Zendesk does not list": day("unlisted"),
        "ledger, suspended, lost and changed e-mails": lambda: get_remarks(db.engine),
        "ledger, tickets to delete, a step": lambda: _run(db, _deletable),
        "ledger, recount, a step": lambda: _run(
            db,
            lambda conn: conn.execute(
                recount.NEXT,
                {"account": LISTED, "keys": ["13000001", ""], "after_ticket": "5", "after_comment": ""},
            ),
        ),
        "list what Zendesk changed": _listed(db, zendesk_state="any"),
        "list what the back-fill found": _listed(db, origin="backfill"),
    }


async def _deletable(conn: AsyncConnection) -> None:
    given = {"account": LISTED, "keys": ["13000001", ""], "after_ticket": "5", "has_target": True}
    await deletable.next_tickets(conn, {**given, "before": None, **await deletable.verified(conn)})


def _reconciliation(db: Database) -> dict[str, Operation]:
    some = random.choice(db.spread)  # noqa: S311
    return {
        "reconcile: find the bounds": lambda: _run(db, lambda conn: expected.bounds(conn, db.old)),
        "reconcile: count waiting and failed": lambda: _run(
            db, lambda conn: expected.count_waiting(conn, some)
        ),
        "reconcile: a step of unsynced e-mails": lambda: _run(
            db, lambda conn: expected.unsynced_from(conn, some, some + 10**9)
        ),
        "reconcile: check some again": lambda: _run(
            db,
            lambda conn: expected.states_of(conn, db.spread),
            lambda conn: expected.known_keys(conn, db.keys),
        ),
        "reconcile: a step of e-mails": lambda: _run(
            db,
            lambda conn: expected.states_from(conn, some, some + 10**9),
            lambda conn: expected.digests(conn, range(some, some + 200), Settings()),
        ),
        "reconcile: a page of contents": lambda: _run(
            db,
            lambda conn: contents.contents_between(conn, "ab", "abg", BATCH),
            lambda conn: contents.contents_since(conn, some, -1, BATCH),
            lambda conn: known_contents(conn, [db.sha256]),
        ),
    }


async def _run(db: Database, *statements: Callable[[AsyncConnection], Awaitable[object]]) -> None:
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
        "old": await database.fetchval("SELECT received_at FROM incoming_emails WHERE id = $1", spread[50]),
        "middle": {
            None: await middle("completed"),
            "completed": await middle("completed"),
            "not synced": await middle("failed", "sync_status"),
            "failed": await middle("failed"),
        },
    }
