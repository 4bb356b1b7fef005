"""What Zendesk does with an e-mail afterwards is marked on ours, whose copy stays as it was."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import pytest

from service.backfill import deleted, requests
from service.backfill.record import History
from service.capture.attempt import process
from service.jobs import discovery
from service.jobs.discovery import Mark
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources
from tests.support.backfill import make_due, search, source, steps
from tests.support.files import PDF
from tests.support.rows import add

HOUR = timedelta(hours=1)


async def state_of(database: asyncpg.Connection, comment_id: int) -> str | None:
    row = await database.fetchrow("SELECT * FROM incoming_emails WHERE comment_id = $1", str(comment_id))
    assert row is not None
    assert (row["zendesk_state_at"] is None) == (row["zendesk_state"] is None)
    state: str | None = row["zendesk_state"]
    return state


async def look(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, *, hourly: bool = True
) -> None:
    await make_due(database, hourly=hourly)
    await search(res, database, zendesk)


@pytest.fixture
async def kept(res: Resources, zendesk: Zendesk, database: asyncpg.Connection) -> int:
    """An e-mail that is kept, of ticket 77; return its comment."""
    file = zendesk.add_file("a.pdf", PDF)
    comment_id = zendesk.add_email(
        77, attachments=[file], text="My number is 4711.", created_at=datetime.now(UTC) - HOUR
    )
    await search(res, database, zendesk)
    await process(res, await database.fetchval("SELECT id FROM incoming_emails"), 1)
    assert await database.fetchval("SELECT processing_status FROM incoming_emails") == "completed"
    return comment_id


async def test_a_deleted_and_a_restored_ticket(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    zendesk.delete_ticket(77)
    await look(res, database, zendesk, hourly=False)
    deleted = await state_of(database, kept)
    zendesk.restore_ticket(77)
    await look(res, database, zendesk, hourly=False)

    assert (deleted, await state_of(database, kept)) == ("deleted", None)


async def test_the_list_of_deleted_tickets_tells_the_same_where_the_export_is_closed(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    zendesk.state.listings.closed = 403
    states = []
    zendesk.delete_ticket(77)
    await look(res, database, zendesk)
    states.append(await state_of(database, kept))
    zendesk.restore_ticket(77)
    await look(res, database, zendesk)
    states.append(await state_of(database, kept))
    zendesk.delete_ticket(77)
    await look(res, database, zendesk)
    zendesk.delete_ticket(77, forever=True)
    await look(res, database, zendesk)
    states.append(await state_of(database, kept))

    assert states == ["deleted", None, "permanently_deleted"]
    assert await database.fetchval("SELECT text FROM messages") == "My number is 4711."


async def test_many_deleted_tickets_are_read_page_by_page(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    for number in range(1, 251):
        zendesk.add_email(number)
        if number % 2:
            zendesk.delete_ticket(number)
    await steps(res)

    marked = await database.fetchval("SELECT count(*) FROM incoming_emails WHERE zendesk_state = 'deleted'")
    assert marked == 125
    assert zendesk.state.calls["deleted_tickets"] == 2


async def test_more_restored_tickets_than_one_call_tells_are_no_longer_deleted(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """An e-mail that stays marked as deleted would be erased after 30 days, where that is what a person set."""
    zendesk.state.listings.closed = 403
    for number in range(1, 121):
        zendesk.add_email(number, created_at=datetime.now(UTC) - HOUR)
    await search(res, database, zendesk)
    marked = []
    for change in (zendesk.delete_ticket, zendesk.restore_ticket):
        for number in range(1, 121):
            change(number)
        for _ in range(2):
            await look(res, database, zendesk)
        marked.append(
            await database.fetchval("SELECT count(*) FROM incoming_emails WHERE zendesk_state IS NOT NULL")
        )

    assert marked == [120, 0]


async def test_a_restored_ticket_that_is_refused_to_the_credentials_is_not_deleted(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    """It is restored into a group that they do not reach: `permanently_deleted` would let it be erased here at once."""
    zendesk.delete_ticket(77)
    await look(res, database, zendesk)
    deleted = await state_of(database, kept)
    zendesk.restore_ticket(77)
    zendesk.state.listings.closed = 403
    zendesk.state.restricted.add("77")
    await look(res, database, zendesk)

    assert (deleted, await state_of(database, kept)) == ("deleted", None)


async def test_a_restored_ticket_is_found_where_too_many_are_deleted_to_list_them(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the others that the page does not show, nothing is known."""
    for number in range(1, 131):
        zendesk.add_email(number, created_at=datetime.now(UTC) - HOUR)
    await search(res, database, zendesk)
    zendesk.state.listings.closed = 403
    for number in range(1, 131):
        zendesk.delete_ticket(number)
    await look(res, database, zendesk)
    zendesk.restore_ticket(1)
    monkeypatch.setattr(deleted, "MOST_PAGES", 1)
    await look(res, database, zendesk)

    states = await database.fetch("SELECT zendesk_state, count(*) FROM incoming_emails GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in states] == [("deleted", 129), (None, 1)]


async def test_an_outage_while_tickets_are_asked_for_marks_none_as_gone(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    zendesk.delete_ticket(77)
    await look(res, database, zendesk)
    zendesk.restore_ticket(77)
    zendesk.state.listings.closed = 403
    await database.execute("UPDATE sources SET suspended_at = NULL, due_at = now() + interval '1 day'")
    zendesk.state.api_faults += [Fault(), Fault(), Fault(status=500)]
    await steps(res)

    assert (await state_of(database, kept), (await source(database))["error_code"]) == (
        "deleted",
        "server_error",
    )


async def test_a_redacted_text_is_marked_and_ours_stays(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    zendesk.state.redact_text(kept, "4711")
    await look(res, database, zendesk, hourly=False)

    assert await state_of(database, kept) == "redacted"
    assert await database.fetchval("SELECT text FROM messages") == "My number is 4711."


async def test_a_redacted_file_is_marked_and_ours_stays(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    zendesk.state.redact(await database.fetchval("SELECT source_url FROM attachments"))
    await look(res, database, zendesk, hourly=False)

    assert await state_of(database, kept) == "redacted"
    assert await database.fetchval("SELECT status FROM attachments") == "stored"


async def test_a_comment_that_becomes_private(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    zendesk.state.make_private(kept)
    await look(res, database, zendesk, hourly=False)

    assert await state_of(database, kept) == "private"


@pytest.mark.parametrize("change", ["redact_text", "make_private"])
async def test_a_look_up_sees_it_too(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int, change: str
) -> None:
    """Without the export, the next look-up of the ticket is the first to know."""
    if change == "redact_text":
        zendesk.state.redact_text(kept, "4711")
    else:
        zendesk.state.make_private(kept)
    # Another e-mail of the ticket is announced with a comment that names the kept one again.
    await database.execute(
        "UPDATE incoming_emails SET processing_status = 'queued', looked_up_at = NULL, queued_at = now()"
    )

    await process(res, await database.fetchval("SELECT id FROM incoming_emails"), 2)

    assert await state_of(database, kept) == ("redacted" if change == "redact_text" else "private")


async def test_of_changes_that_one_page_tells_the_last_one_counts(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    """Each search tells them again: the searches of a quiet account overlap."""
    zendesk.state.make_private(kept)
    zendesk.state.make_public(kept)
    zendesk.delete_ticket(77)
    zendesk.restore_ticket(77)
    states = []
    for _ in range(3):
        await look(res, database, zendesk, hourly=False)
        states.append(await state_of(database, kept))

    assert states == [None, None, None]


async def test_a_search_with_an_end_tells_no_change_that_was_taken_back_since(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kept: int
) -> None:
    """A redaction is for ever."""
    other = zendesk.add_email(78, text="My number is 4711.", created_at=datetime.now(UTC) - HOUR)
    await look(res, database, zendesk, hourly=False)
    zendesk.state.make_private(kept)
    zendesk.delete_ticket(77)
    zendesk.state.redact_text(other, "4711")
    long_ago = datetime.now(UTC) - timedelta(days=90)
    for audit in zendesk.state.listings.audits[-3:]:
        zendesk.state.listings.audits.remove(audit)
        zendesk.state.listings.add(replace(audit, timestamp=int(long_ago.timestamp())))
    zendesk.restore_ticket(77)
    zendesk.state.make_public(kept)

    wanted = History(long_ago - HOUR, long_ago + HOUR, dry_run=False)
    await requests.begin(res, wanted, "grace")
    await search(res, database, zendesk)

    assert [await state_of(database, each) for each in (kept, other)] == [None, "redacted"]


async def test_an_internal_note_by_e_mail_was_always_private(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    comment_id = zendesk.add_email(77, public=False)
    await steps(res)
    await process(res, await database.fetchval("SELECT id FROM incoming_emails"), 1)

    assert await state_of(database, comment_id) is None


async def test_a_lesser_mark_does_not_hide_a_greater_one(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add(database, zendesk_ticket_id="77", comment_id="9")
    states = []
    for comment_id, state in (
        ("9", "private"),
        ("9", "redacted"),
        ("9", "private"),
        ("9", "public"),
        (None, "deleted"),
        ("9", "redacted"),
        (None, "restored"),
        (None, "permanently_deleted"),
        (None, "restored"),
        ("9", "private"),
    ):
        await res.run(partial(discovery.mark, account_id="", marks=[Mark("77", comment_id, state)]))
        states.append(
            await database.fetchval("SELECT zendesk_state FROM incoming_emails WHERE id = $1", email_id)
        )

    assert states == [
        *("private", "redacted", "redacted", "redacted", "deleted", "deleted", None),
        *("permanently_deleted", "permanently_deleted", "permanently_deleted"),
    ]


async def test_a_mark_is_of_its_ticket_and_account_alone(
    res: Resources, database: asyncpg.Connection
) -> None:
    for ticket, comment, account in (("77", "9", "1"), ("77", "10", "1"), ("78", "9", "1"), ("77", "9", "2")):
        await add(database, zendesk_ticket_id=ticket, comment_id=comment, account_id=account)

    changed = await res.run(lambda conn: discovery.mark(conn, "1", [Mark("77", "9", "redacted")] * 2))
    again = await res.run(lambda conn: discovery.mark(conn, "1", [Mark("77", "9", "redacted")]))

    assert (changed, again) == (1, 0)
    assert await database.fetchval("SELECT zendesk_state FROM incoming_emails WHERE id = 1") == "redacted"


async def test_concurrent_marks_of_the_same_e_mails_do_not_deadlock(
    res: Resources, database: asyncpg.Connection
) -> None:
    for number in range(200):
        await add(database, zendesk_ticket_id="77", comment_id=str(number))
    marks = [Mark("77", str(number), "redacted") for number in range(200)]

    both = await asyncio.gather(
        *(res.run(partial(discovery.mark, account_id="", marks=each)) for each in (marks, marks[::-1]))
    )

    assert sum(both) == 200


@pytest.mark.parametrize(
    "fault", [*(Fault(status=status) for status in (400, 403, 422)), Fault(status=200, body=b"{}")]
)
async def test_lists_that_zendesk_does_not_give_are_left_out_for_an_hour(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, fault: Fault
) -> None:
    await steps(res)
    await make_due(database, hourly=True)
    zendesk.state.api_faults += [Fault(), fault, fault]

    await steps(res)
    found = await source(database)

    assert found["suspended_at"] is not None
    assert found["error_code"] is None
