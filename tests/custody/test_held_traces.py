"""A hold covers what is no e-mail yet: webhooks in quarantine, ignored ones, and suspended e-mails."""

from datetime import timedelta

import asyncpg
import pytest

from service.custody import erasure
from service.custody.holds import HoldOrder, release_hold, set_hold
from service.custody.scopes import scope_of
from service.errors import Rejected
from service.postgres.selection import LastingFilter
from service.resources import Resources
from service.storage.spool import object_key
from tests.support.rows import NOON, add, add_quarantined_body

ANN = "ann@customer.example"
BODY = b'{"ticket": {"id": 4711, "from": "ann@customer.example"'


async def add_suspended(database: asyncpg.Connection, **columns: object) -> int:
    sha256 = "0" * 64
    record = {"record_sha256": sha256, "record_key": object_key(sha256), "record_size": 1, "text": "Hi"}
    about = {"account": "a.example", "suspended_id": "1", "from_address": "Ann@customer.example"}
    row = {**about, **record, "files": "[]", "contents": [sha256], "created_at": NOON, **columns}
    return await add(database, "suspended_emails", **row)


async def add_ignored(database: asyncpg.Connection) -> int:
    row = {"idempotency_key": "i", "event_type": "other", "raw_body": BODY, "raw_headers": "[]"}
    return await add(database, "ignored_webhooks", **row)


async def left(database: asyncpg.Connection) -> list[str]:
    """Return the tables that still have their row."""
    tables = ("quarantined_webhooks", "ignored_webhooks", "suspended_emails")
    return [table for table in tables if await database.fetchval(f"SELECT count(*) FROM {table}")]


@pytest.mark.parametrize(
    ("what", "wanted", "is_held"),
    [
        *((what, LastingFilter(), True) for what in ("quarantine", "ignored", "suspended")),
        *((what, LastingFilter(sender="ANN@customer.example"), True) for what in ("quarantine", "suspended")),
        ("quarantine", LastingFilter(sender=ANN, ticket="4711"), True),
        ("quarantine", LastingFilter(sender=ANN, ticket="471"), False),
        ("quarantine", LastingFilter(received_before=NOON), False),
        ("suspended", LastingFilter(received_before=NOON + timedelta(seconds=1)), True),
        ("suspended", LastingFilter(received_before=NOON), False),
        ("suspended", LastingFilter(ticket="4711"), False),
        *(
            (what, LastingFilter(sender="bob@customer.example"), False)
            for what in ("quarantine", "suspended")
        ),
    ],
)
async def test_an_erasure_is_refused_if_a_hold_covers_what_is_no_email(
    what: str, wanted: LastingFilter, *, is_held: bool, res: Resources, database: asyncpg.Connection
) -> None:
    if what == "suspended":
        await add_suspended(database)
    elif what == "ignored":
        await add_ignored(database)
    else:
        await add_quarantined_body(database, BODY)
    await set_hold(res, HoldOrder("audit", "An audit.", wanted), "ada")
    scope = scope_of({"sender": ANN})

    planned = await erasure.plan(res, scope)

    assert planned.held == ({"audit": 1} if is_held else {})
    if is_held:
        with pytest.raises(Rejected, match="A hold forbids it: audit"):
            await erasure.start(res, scope, "Asked for.", "ada")
    else:
        await erasure.run(res, await erasure.start(res, scope, "Asked for.", "ada"))
        assert await left(database) == []


@pytest.mark.parametrize("what", ["quarantine", "ignored", "suspended"])
async def test_a_hold_that_is_set_later_stops_the_erasure_until_its_release(
    what: str, res: Resources, database: asyncpg.Connection
) -> None:
    add_row = {
        "quarantine": lambda: add_quarantined_body(database, BODY),
        "ignored": lambda: add_ignored(database),
        "suspended": lambda: add_suspended(database),
    }
    await add_row[what]()
    erasure_id = await erasure.start(res, scope_of({"sender": ANN}), "Asked for.", "ada")
    await set_hold(res, HoldOrder("audit", "An audit.", LastingFilter(sender=ANN)), "ada")

    stopped = await erasure.run(res, erasure_id)
    kept = await left(database)
    await release_hold(res, "audit", "ada", "Over.")
    await database.execute("UPDATE erasures SET next_at = now()")
    done = await erasure.run(res, erasure_id)

    assert (stopped.status, stopped.is_stopped, stopped.held_by) == ("running", True, ["audit"])
    assert len(kept) == 1
    assert (done.status, done.held_by, await left(database)) == ("done", [], [])
    assert await database.fetchval("SELECT webhooks + suspended FROM erasures") == 1


async def test_a_suspended_email_that_became_a_held_one_stays_with_it(
    res: Resources, database: asyncpg.Connection
) -> None:
    """A person lists the e-mail in a hold; Zendesk gave it another sender than the suspended one had."""
    email_id = await add(database, from_email="bob@customer.example", processing_status="completed")
    await add_suspended(database, email_id=email_id)
    await set_hold(res, HoldOrder("audit", "An audit.", None, [email_id]), "ada")

    with pytest.raises(Rejected, match="A hold forbids it: audit"):
        await erasure.start(res, scope_of({"sender": ANN}), "Asked for.", "ada")
