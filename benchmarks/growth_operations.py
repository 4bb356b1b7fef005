"""The service's operations on a database, by name, through its own functions."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from benchmarks.growth_custody import comparisons, keeping
from benchmarks.growth_database import (
    ACCOUNT,
    ASKING,
    BATCH,
    DISMISS,
    LEASE,
    SYNCING,
    UNDISMISS,
    Database,
    Operation,
    resources_of,
    run_on,
)
from service.capture.word_index import TOGETHER, write_words
from service.jobs import (
    announcements,
    arrival,
    attachments,
    attempts,
    bulk_retries,
    dismissals,
    email_words,
    loose_objects,
    messages,
    originals,
    refetch,
    syncs,
    tickets,
    waiting,
)
from service.jobs import retries as job_retries
from service.jobs.arrival import Arrival
from service.jobs.attachments import FileUpdate
from service.jobs.attempts import Claim, ClaimRequest, Settlement
from service.jobs.bulk_retries import BulkRetryStep
from service.jobs.loose_objects import Note
from service.jobs.originals import PutOff
from service.jobs.syncs import SyncClaim, SyncClaimRequest
from service.jobs.tickets import TicketKey
from service.jobs.waiting import Job
from service.operate import bulk_retry
from service.operate.bulk_retry import EXAMINED
from service.postgres.search import search
from service.postgres.selection import RETRY, SYNC, BulkTask, Selection
from service.queries import (
    actions,
    arrivals,
    custody,
    emails,
    failures,
    overview,
    reconciliations,
    retries,
    webhooks,
)
from service.queries.changes import list_changes
from service.queries.emails import EmailFilter
from service.queries.neighbours import neighbours_of
from service.queries.pages import PageFilter
from service.queries.webhooks import QuarantineFilter
from service.queue.suspects import Suspects
from service.reconcile import expected
from service.reconcile.repair import resync
from service.storage.objects import StoredObject
from service.targets.document import read_records


def changes(db: Database) -> dict[str, Operation]:
    """Return the operations that write, by name; the caller rolls them back."""
    return {
        **_arrivals(db),
        **_changes_of_jobs(db),
        **_changes_of_messages(db),
        **_changes_of_syncs(db),
        **keeping(db),
    }


def questions(db: Database) -> dict[str, Operation]:
    """Return the operations that read, by name."""
    return {
        **_lists(db),
        **_lists_of_syncs(db),
        **_reads(db),
        **_pages(db),
        **comparisons(db),
    }


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


def _changes_of_messages(db: Database) -> dict[str, Operation]:
    conn, some, claimed = db.conn, db.spread[:TOGETHER], db.claimed[:TOGETHER]
    stored = StoredObject(db.sha256, 84_000, "application/pdf", f"sha256/{db.sha256}")
    ticket = TicketKey(ACCOUNT, db.ticket)

    async def look_up() -> None:
        await tickets.lease(conn, [ticket])
        await tickets.looked_up(conn, some)
        await messages.known_emails(conn, ticket, some[0], ["1", "2", "3"])
        await messages.state_of(conn, some)
        await tickets.release(conn, [ticket])

    async def ask_again() -> None:
        await originals.put_off(conn, [PutOff(number, LEASE, is_asked=False) for number in some])
        await originals.put_off(conn, [PutOff(number, -LEASE, is_asked=True) for number in some])
        await originals.take_due(conn)
        await originals.stop(conn, some)

    return {
        "list the files of 20": lambda: attachments.files_of(conn, claimed),
        "note 20 objects": lambda: loose_objects.note(
            conn, [Note(f"{stored.key}{number}", number, LEASE) for number in claimed]
        ),
        "record 20 stored files": lambda: attachments.mark(
            conn, [FileUpdate((number, 1), 0, "stored", stored) for number in claimed]
        ),
        "look up a ticket, what is known of it": look_up,
        "ask again for 20 originals": ask_again,
        "look for originals that are due": lambda: originals.take_due(conn),
        "queue 20 with new files again": lambda: announcements.reopen(conn, some),
        "write the words of 20": lambda: write_words(conn, some),
        "list e-mails without words, a step": lambda: email_words.list_unwritten(conn, None, EXAMINED),
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
        "list what Zendesk changed": listed(zendesk_state="any"),
        "list what the back-fill found": listed(origin="backfill"),
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
        "read 100 documents": lambda: run_on(db, lambda conn: read_records(conn, db.spread)),
        "list reconciliations": lambda: reconciliations.list_reconciliations(db.engine, PageFilter()),
        "list groups of failures": lambda: failures.list_failures(db.engine),
        "list e-mails with a content": lambda: emails.list_holders(db.engine, db.sha256),
        "list bulk retries": lambda: retries.list_retries(db.engine),
        "list operators' actions": lambda: actions.list_actions(db.engine, PageFilter()),
        "overview, counts and the oldest age": lambda: overview.stats(db.engine),
        "overview, all of it": lambda: overview.summarize(db.engine, SYNCING),
    }


def _pages(db: Database) -> dict[str, Operation]:
    res = resources_of(db)

    def planned(**wanted: object) -> Operation:
        return lambda: bulk_retry.plan(res, Selection.model_validate(wanted))

    async def neighbours() -> None:
        await neighbours_of(db.engine, await emails.get_email(db.engine, db.middle_id))

    return {
        "one e-mail with its neighbours": neighbours,
        "plan a bulk retry": planned(),
        "plan a bulk retry of a group": planned(error_code="http_500", host="host-1.customer.example"),
        "plan a bulk retry with a text in many e-mails": planned(q="about order number"),
        "list arrivals": lambda: arrivals.list_arrivals(db.engine),
        "list holds": lambda: custody.list_holds(db.engine),
        "one hold, with its count": lambda: custody.get_hold(db.engine, "case-1"),
        "overview, all of it, with the ledger": lambda: overview.summarize(db.engine, ASKING),
    }
