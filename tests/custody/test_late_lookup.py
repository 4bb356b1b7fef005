"""An e-mail that its look-up recognises as an erased one goes with all that hangs on it."""

from functools import partial

import asyncpg

from service.custody import erasure
from service.custody.scopes import scope_of
from service.jobs import messages, tickets
from service.jobs.arrival import receive
from service.jobs.messages import KeptComment
from service.jobs.tickets import TicketKey
from service.resources import Resources
from tests.custody.test_loose_objects import comment
from tests.support.erasing_emails import tables_with
from tests.support.evidence import add_whole, arrival, codes, finish_later, keep_message, place_all
from tests.support.messages import put
from tests.support.rows import add


async def test_nothing_stays_of_an_email_that_is_recognised_late(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Its webhook named no comment, and came by a replay; a target has its document already."""
    await place_all(res)
    first = await add_whole(res, 1)
    erasure_id = await erasure.start(res, scope_of({"email": first}), "Asked for.", "ada")
    assert (await erasure.run(res, erasure_id)).status == "done"
    body = b'{"text": "A secret."}'
    again = arrival(1, idempotency_key="again", comment_id=None, raw_body=body)
    async with res.engine.connect() as conn:
        email_id = (await receive(conn, [again]))[0].email_id or 0
    await database.execute(
        "UPDATE incoming_emails SET sync_status = 'synced', sync_attempt_number = 1 WHERE id = $1", email_id
    )
    raw = {"email_id": email_id, "raw_body": body, "raw_headers": "[]"}
    await add(
        database, "quarantined_webhooks", idempotency_key="q", error_code="not_json", error="No.", **raw
    )
    await add(database, "ignored_webhooks", idempotency_key="i", event_type="x", **raw)
    about = {"email_id": email_id, "action": "dismiss", "actor": "ada"}
    await add(database, "operator_actions", **about, reason="A secret.")
    run = await add(database, "reconciliations", kind="reconcile", actor="ada", fix="all", status="done")
    found = {"reconciliation_id": run, "kind": "different", "detail": '{"there": "A secret."}'}
    await add(database, "reconciliation_findings", **found, email_id=email_id, key="again")
    await add(database, "reconciliation_findings", **found, key="again")
    await add(database, "merged_emails", id=900, email_id=email_id, idempotency_key="merged", version=5)

    await keep_message(res, email_id, 1)

    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0
    assert await tables_with(database, "A secret.") == []
    told = await database.fetch(
        "SELECT document_key, version FROM removed_emails WHERE target_due_at IS NOT NULL AND receipt_id = 1 ORDER BY 1"
    )
    assert [tuple(row) for row in told] == [("again", 1), ("merged", 6)]
    await finish_later(res)
    await place_all(res, wants_head=True)
    assert await codes(res) == set()


async def test_a_ticket_whose_last_email_is_erased_during_its_look_up_is_forgotten_with_it(
    res: Resources, database: asyncpg.Connection
) -> None:
    """The look-up needs its row, and deletes it at its end: it has the subject."""
    ticket, other = TicketKey("1", "4711"), TicketKey("1", "4712")
    gone = await add(database, account_id="1", comment_id="1", raw_body=b"{}", raw_headers="[]")
    await add(database, account_id="1", zendesk_ticket_id="4712", comment_id="2")
    assert await res.run(partial(tickets.lease, tickets=[ticket, other])) == [True, True]
    await database.execute("UPDATE tickets SET subject = 'A secret.'")
    erasure_id = await erasure.start(res, scope_of({"email": gone}), "Asked for.", "ada")
    assert (await erasure.run(res, erasure_id)).status == "done"

    await res.run(partial(tickets.release, tickets=[ticket, other]))

    rows = await database.fetch("SELECT ticket_id, looking_until FROM tickets")
    assert [tuple(row) for row in rows] == [("4712", None)]


async def test_a_look_up_that_outlasts_its_lease_goes_on_without_a_ticket(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Its last e-mail was removed meanwhile, and the ticket with it; another comment of it is kept."""
    ticket = TicketKey("1", "4711")
    assert await database.fetchval("SELECT count(*) FROM tickets") == 0
    async with res.engine.connect() as conn:
        kept = KeptComment(comment("1"), await put(res, b"{}"), None)
        [job] = await messages.keep(conn, ticket, [kept], waiting=(), sync_status="not_applicable")

    assert await database.fetchval("SELECT email_id FROM messages") == job.email_id
