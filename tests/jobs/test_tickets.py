"""A ticket's subject that comes late is added to its e-mails, and their documents get a version of their own."""

import asyncio
from functools import partial

import asyncpg
import pytest

from service.jobs import messages, tickets
from service.jobs.messages import KeptComment
from service.jobs.tickets import Asking, SavedFacts, TicketKey
from service.jobs.waiting import Sync
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.engine import transaction
from service.resources import Resources
from service.targets.document import make_document, read_records
from service.targets.webhook import message_id
from service.zendesk.client import CALLS_AT_ONCE
from service.zendesk.messages import TicketFacts, read_page
from tests.conftest import eventually
from tests.support.messages import put

EMAIL = """INSERT INTO incoming_emails (zendesk_ticket_id, idempotency_key, comment_id, processing_status,
    attempt_number, sync_status, sync_attempt_number) VALUES ('4711', 'key', '9001', 'completed', 1, $1, $2)"""
ATTEMPT = "INSERT INTO attempts (email_id, number, worker, outcome) VALUES (1, 1, 'worker.1', 'completed')"
MESSAGE = """INSERT INTO messages
    (email_id, comment_id, direction, "to", cc, text, text_size, has_html, record_sha256, record_key, record_size)
    VALUES (1, '9001', 'inbound', '[]', '[]', '', 0, false, 'ab', 'sha256/ab', 2)"""


@pytest.mark.parametrize(
    ("status", "attempts", "version", "message"),
    [("synced", 1, 2, "key:2"), ("pending", 1, 2, "key:2"), ("pending", 0, 1, "key")],
    ids=["synced", "maybe in a target", "in no target yet"],
)
async def test_subject_after_the_sync_gives_a_further_version(
    status: str, attempts: int, version: int, message: str, res: Resources, database: asyncpg.Connection
) -> None:
    """A receiver drops a message whose id it knows."""
    await database.execute(EMAIL, status, attempts)
    await database.execute(ATTEMPT)
    await database.execute(MESSAGE)
    facts = SavedFacts(TicketKey("", "4711"), TicketFacts("Rechnung", "support@acme.example"), "pending")
    syncs = await res.run(partial(tickets.save_facts, saved=[facts]))
    document = make_document((await res.run(partial(read_records, email_ids=[1])))[1], {})

    assert syncs == [[Sync(1, version)]]
    assert (document.version, message_id(document)) == (version, message)
    assert document.content["message"]["subject"] == "Rechnung"
    assert document.content["message"]["to"] == [{"name": None, "address": "support@acme.example"}]


async def test_a_failed_sync_of_a_late_subject_begins_anew_and_what_was_dismissed_stays_so(
    res: Resources, database: asyncpg.Connection
) -> None:
    """As after a retry of the sync: the subject is news for the target, not a failure of the e-mail."""
    await database.execute(EMAIL, "failed", 3)
    await database.execute(ATTEMPT)
    await database.execute(MESSAGE)
    await database.execute(
        """UPDATE incoming_emails SET processing_status = 'failed', dismissed_attempt = 1, sync_retry_count = 5,
        sync_error_code = 'receiver_busy', sync_error = 'It is busy.'"""
    )
    facts = SavedFacts(TicketKey("", "4711"), TicketFacts("Rechnung", None), "pending")

    await res.run(partial(tickets.save_facts, saved=[facts]))

    email = await database.fetchrow("SELECT * FROM incoming_emails")
    assert email is not None
    assert (email["sync_status"], email["sync_retry_count"]) == ("pending", 0)
    assert (email["sync_error_code"], email["sync_error"]) == (None, None)
    assert (email["attempt_number"], email["dismissed_attempt"]) == (2, 2)


ACCOUNT = "acme.zendesk.com"
BUDGET = "INSERT INTO api_budgets (account) VALUES ($1)"
TICKETS = """INSERT INTO tickets (account_id, ticket_id)
    SELECT '', place::text FROM generate_series($1::int, $2::int) AS place"""


async def take(res: Resources) -> list[int]:
    (taken,) = await res.run(partial(tickets.take_without_subject, askings=[Asking(ACCOUNT, 40)]))
    return sorted(int(ticket.ticket_id) for ticket in taken)


async def test_the_first_calls_for_subjects_are_made_at_once_and_further_ones_serve_many(
    res: Resources, database: asyncpg.Connection
) -> None:
    await database.execute(BUDGET, ACCOUNT)
    taken = []
    for place in range(1, 20):
        await database.execute(TICKETS, place, place)
        taken.append(await take(res))
    await database.execute(
        "UPDATE api_budgets SET subjects_at = subjects_at - $1::interval", tickets.ASK_EVERY
    )

    assert taken[:5] == [[1], [2], [3], [4], [5]]
    assert not any(taken[6:])
    assert len(await take(res)) == 19 - sum(map(len, taken))


@pytest.mark.parametrize(("limit", "calls"), [(200, range(1, 3)), (2500, range(9, 76))])
async def test_subjects_cost_few_calls_while_calls_are_scarce(
    limit: int, calls: range, res: Resources, database: asyncpg.Connection
) -> None:
    """In a minute with 75 look-ups: they are nearly all calls of the smallest plan, and few of the largest."""
    await database.execute(
        "INSERT INTO api_budgets (account, calls_per_minute, subjects_at, window_ends_at)"
        " VALUES ($1, $2, now(), now() + interval '1 minute')",
        ACCOUNT,
        limit,
    )
    taken = []
    for place in range(1, 76):
        await database.execute(TICKETS, place, place)
        await database.execute(
            "UPDATE api_budgets SET used = $1, window_ends_at = window_ends_at - interval '0.8 seconds',"
            " subjects_at = subjects_at - interval '0.8 seconds'",
            place,
        )
        taken.append(await take(res))

    assert len([each for each in taken if each]) in calls


@pytest.mark.parametrize(("used", "taken"), [(79, [1]), (80, [])])
async def test_no_turn_is_taken_while_the_budget_has_no_call(
    used: int, taken: list[int], res: Resources, database: asyncpg.Connection
) -> None:
    """The next turn would come a minute later, when the budget may be used up again."""
    await database.execute(
        "INSERT INTO api_budgets (account, calls_per_minute, used, window_ends_at)"
        " VALUES ($1, 200, $2, now() + interval '1 minute')",
        ACCOUNT,
        used,
    )
    await database.execute(TICKETS, 1, 1)
    first = await take(res)
    await database.execute("UPDATE api_budgets SET window_ends_at = now()")

    assert first == taken
    assert [*first, *await take(res)] == [1]


async def test_a_hundred_tickets_do_not_wait_for_the_next_call(
    res: Resources, database: asyncpg.Connection
) -> None:
    await database.execute(BUDGET, ACCOUNT)
    await database.execute("UPDATE api_budgets SET subjects_at = now() + interval '5 seconds'")
    await database.execute(TICKETS, 1, 99)
    before = await take(res)
    await database.execute(TICKETS, 100, 250)

    assert before == []
    assert [len(await take(res)) for _ in range(3)] == [100, 100, 0]


async def test_workers_at_the_same_time_make_one_call(res: Resources, database: asyncpg.Connection) -> None:
    await database.execute(BUDGET, ACCOUNT)
    await database.execute("UPDATE api_budgets SET subjects_at = now()")
    await database.execute(TICKETS, 1, 10)

    taken = await asyncio.gather(*(take(res) for _ in range(4)))

    assert sorted(taken) == [[], [], [], [*range(1, 11)]]


async def test_a_ticket_that_was_asked_for_is_taken_again_after_a_while(
    res: Resources, database: asyncpg.Connection
) -> None:
    """The worker that asked may have ended."""
    await database.execute(BUDGET, ACCOUNT)
    await database.execute(TICKETS, 1, 1)
    taken = [await take(res), await take(res)]
    await database.execute("UPDATE tickets SET asked_at = asked_at - $1::interval", tickets.ASK_AGAIN)

    assert [*taken, await take(res)] == [[1], [], [1]]


async def test_subjects_of_many_tickets_cost_one_call(res: Resources, zendesk: Zendesk) -> None:
    for ticket in range(1, 4):
        zendesk.add_email(ticket, subject=f"Subject {ticket}")

    facts = await res.zendesk.ticket_facts(["1", "2", "3", "99", "no number"])

    assert {ticket: each.subject for ticket, each in facts.items()} == {
        "1": "Subject 1",
        "2": "Subject 2",
        "3": "Subject 3",
        "99": None,
        "no number": None,
    }
    assert zendesk.state.calls["tickets/show_many"] == 1
    assert dict(await res.zendesk.ticket_facts(["no number"])) == {"no number": TicketFacts(None, None)}


async def test_a_call_for_subjects_does_not_wait_behind_look_ups(res: Resources, zendesk: Zendesk) -> None:
    """Those that wait may be as many as the minute has calls."""
    zendesk.add_email(1, subject="Rechnung")
    zendesk.state.api_faults.extend([Fault(delay_seconds=60)] * CALLS_AT_ONCE)
    look_ups = [
        asyncio.create_task(res.zendesk.get("/api/v2/tickets/1/comments")) for _ in range(2 * CALLS_AT_ONCE)
    ]

    async def are_under_way() -> bool:
        return zendesk.state.api_calls == CALLS_AT_ONCE

    await eventually(are_under_way)
    facts = await res.zendesk.ticket_facts(["1"])
    for look_up in look_ups:
        look_up.cancel()
    await asyncio.wait(look_ups)

    assert facts["1"].subject == "Rechnung"
    assert zendesk.state.calls["tickets/show_many"] == 1


async def test_a_subject_that_comes_while_a_message_is_kept_reaches_it(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    """The message is not there yet for the statement that fills it in: it has to wait for the message."""
    ticket = TicketKey("", "4711")
    zendesk.add_email(4711)
    page = {"comments": zendesk.state.comments["4711"], "users": []}
    kept = KeptComment(read_page(page)[0], await put(res, b"{}"), None)
    await res.run(partial(tickets.lease, tickets=[ticket]))
    facts = SavedFacts(ticket, TicketFacts("Rechnung", None), "not_applicable")
    async with res.engine.connect() as conn, transaction(conn):
        await messages.keep(conn, ticket, [kept], waiting=(), sync_status="not_applicable")
        saving = asyncio.create_task(res.run(partial(tickets.save_facts, saved=[facts])))
        await eventually(partial(waits_for_a_lock, database))

    await saving
    assert await database.fetchval("SELECT subject FROM messages") == "Rechnung"


async def waits_for_a_lock(database: asyncpg.Connection) -> bool:
    return bool(await database.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
