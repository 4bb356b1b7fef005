"""The operations of the ledger, reconciliation, custody and evidence on a database, by name."""

import random
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.growth_database import (
    ACCOUNT,
    ASKING,
    BATCH,
    LISTED,
    Database,
    Operation,
    resources_of,
    run_on,
)
from service.config.settings import Settings
from service.custody import erasure, receipts, retention
from service.custody.removal import remove
from service.custody.scopes import Scope
from service.evidence import later, sequence
from service.evidence.findings import Report
from service.evidence.verify_rows import verify_emails
from service.evidence.verify_tree import verify_leaves, verify_placed
from service.jobs import discovery
from service.jobs.discovery import Discovery, Mark
from service.postgres.contents import known_contents
from service.postgres.held_emails import holds_on
from service.queries import deletable
from service.queries.evidence import get_evidence
from service.queries.remarks import get_remarks
from service.queries.source import SourceFilter, get_ledger
from service.reconcile import contents, expected, recount


def keeping(db: Database) -> dict[str, Operation]:
    """Return the operations that write; the caller rolls them back."""
    return {**_back_fill(db), **_custody(db), **_evidence(db)}


def comparisons(db: Database) -> dict[str, Operation]:
    """Return the operations that read."""
    return {**_ledger(db), **_reconciliation(db), **_verification(db)}


def _back_fill(db: Database) -> dict[str, Operation]:
    conn = db.conn
    found = [Discovery(f"{number}", f"new {number}", datetime.now(UTC)) for number in range(1, 1_001)]
    marks = [Mark(f"{number}", f"{number}", "redacted") for number in range(1, 101)]

    async def add() -> None:
        await discovery.add(conn, ACCOUNT, found, origin="backfill", sync_status="pending")

    return {
        "back-fill: add 1,000 comments": add,
        "back-fill: count the missing of 1,000": lambda: discovery.count_missing(conn, ACCOUNT, found),
        "back-fill: mark 100 changes": lambda: discovery.mark(conn, ACCOUNT, marks),
        "back-fill: adopt e-mails without an account": lambda: discovery.adopt_nameless(conn, ACCOUNT, 5_000),
    }


def _custody(db: Database) -> dict[str, Operation]:
    conn, some = db.conn, db.spread[:BATCH]
    res = resources_of(db)

    async def purge() -> None:
        receipt = await receipts.begin(conn, "purge", "tests")
        due = await retention.lock_due(conn, some, floor_days=0)
        await remove(conn, [each.email_id for each in due], receipt)

    def plan(scope: Scope) -> Operation:
        return lambda: erasure.plan(res, scope)

    return {
        "holds on 100": lambda: holds_on(conn, some),
        "purge: find 100 that are due": lambda: retention.due(conn, db.middle_id, BATCH, floor_days=0),
        "purge: remove 100": purge,
        "erasure: plan it for a sender": plan(Scope("sender", f"someone.{db.middle_id}@customer.example")),
        "erasure: plan it for a ticket": plan(Scope("ticket", db.ticket)),
        "erasure: plan it for a file": plan(Scope("file", db.sha256)),
    }


def _evidence(db: Database) -> dict[str, Operation]:
    res, place = resources_of(db), {"after": db.middle_id}
    return {
        "evidence: place 5,000 entries": lambda: sequence.step(res),
        "evidence: look for older rows": lambda: later.step(res),
        "evidence: verify a step of leaves": lambda: verify_leaves(db.conn, {}, Report()),
        "evidence: verify a step of entries": lambda: verify_placed(db.conn, place, Report()),
    }


def _verification(db: Database) -> dict[str, Operation]:
    place = {"after": db.middle_id}
    return {
        "evidence: verify a step of e-mails": lambda: run_on(
            db, lambda conn: verify_emails(conn, place, Report())
        ),
        "evidence: the state of the log": lambda: get_evidence(db.engine, ASKING),
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
        "ledger, tickets to delete, a step": lambda: run_on(db, _deletable),
        "ledger, recount, a step": lambda: run_on(
            db,
            lambda conn: conn.execute(
                recount.NEXT,
                {"account": LISTED, "keys": [ACCOUNT, ""], "after_ticket": "5", "after_comment": ""},
            ),
        ),
    }


async def _deletable(conn: AsyncConnection) -> None:
    given = {"account": LISTED, "keys": [ACCOUNT, ""], "after_ticket": "5", "has_target": True}
    await deletable.next_tickets(conn, {**given, "before": None, **await deletable.verified(conn)})


def _reconciliation(db: Database) -> dict[str, Operation]:
    some = random.choice(db.spread)  # noqa: S311
    return {
        "reconcile: find the bounds": lambda: run_on(db, lambda conn: expected.bounds(conn, db.old)),
        "reconcile: count waiting and failed": lambda: run_on(
            db, lambda conn: expected.count_waiting(conn, some)
        ),
        "reconcile: a step of unsynced e-mails": lambda: run_on(
            db, lambda conn: expected.unsynced_from(conn, some, some + 10**9)
        ),
        "reconcile: check some again": lambda: run_on(
            db,
            lambda conn: expected.states_of(conn, db.spread),
            lambda conn: expected.known_keys(conn, db.keys),
        ),
        "reconcile: a step of e-mails": lambda: run_on(
            db,
            lambda conn: expected.states_from(conn, some, some + 10**9),
            lambda conn: expected.digests(conn, range(some, some + 200), Settings()),
        ),
        "reconcile: a page of contents": lambda: run_on(
            db,
            lambda conn: contents.contents_between(conn, "ab", "abg", BATCH),
            lambda conn: contents.contents_since(conn, some, -1, BATCH),
            lambda conn: known_contents(conn, [db.sha256]),
        ),
    }
