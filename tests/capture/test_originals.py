"""Originals: what says nothing of the e-mail costs none, and each ends as stored, or with the reason why there is none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.capture import originals
from service.capture.attempt import process
from service.config.settings import Settings
from service.custody import receipts
from service.custody.erased_files import erase_file
from service.jobs import messages
from service.jobs.originals import MOST_TRIES
from service.jobs.retries import retry
from service.jobs.waiting import lock
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import transaction
from service.resources import Resources, open_resources
from tests.support.files import PDF
from tests.support.messages import put
from tests.support.rows import add

LONG_AGO = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture(autouse=True)
def gives_originals(zendesk: Zendesk) -> None:
    zendesk.state.gives_originals = True


async def announce(database: asyncpg.Connection, zendesk: Zendesk, ticket: int, **email: Any) -> int:
    """Add an e-mail at Zendesk, and here, as its webhook does."""
    comment_id = zendesk.add_email(ticket, **{"created_at": LONG_AGO, **email})
    return await add(
        database, zendesk_ticket_id=str(ticket), comment_id=str(comment_id), attachment_urls="[]"
    )


async def ends(database: asyncpg.Connection) -> list[tuple[Any, ...]]:
    rows = await database.fetch(
        "SELECT processing_status, original, original_error_code FROM incoming_emails JOIN messages ON email_id = id"
        " ORDER BY id"
    )
    return [tuple(row) for row in rows]


async def ask_when_due(res: Resources, database: asyncpg.Connection) -> bool:
    await database.execute("UPDATE messages SET original_due_at = now() WHERE original_due_at IS NOT NULL")
    return await originals.ask_next(res)


async def allow_two_calls(zendesk: Zendesk, database: asyncpg.Connection) -> None:
    """Leave calls for the comments and the subject of an e-mail, and none for its original."""
    await database.execute(
        "INSERT INTO api_budgets (account, calls_per_minute, window_ends_at) VALUES ($1, 5, now() + interval '1 minute')",
        zendesk.url.removeprefix("http://"),
    )


async def end_minute(database: asyncpg.Connection) -> None:
    await database.execute("UPDATE api_budgets SET window_ends_at = now(), calls_per_minute = 700")


async def test_an_original_that_has_to_wait_comes_later_and_changes_nothing_else(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    email_id = await announce(database, zendesk, 1)
    await allow_two_calls(zendesk, database)
    await process(res, email_id, 1)
    before = await ends(database)
    row = await database.fetchrow("SELECT * FROM incoming_emails")

    too_early = await originals.ask_next(res)
    await end_minute(database)
    asked = await ask_when_due(res, database)

    assert before == [("completed", None, None)]
    assert (too_early, asked) == (False, True)
    assert await ends(database) == [("completed", "stored", None)]
    assert await database.fetchrow("SELECT * FROM incoming_emails") == row
    assert await database.fetchval("SELECT count(*) FROM loose_objects") == 0
    assert not await ask_when_due(res, database)
    assert zendesk.state.calls["email.eml"] == 1


async def test_after_the_last_try_an_original_is_not_available_with_the_reason(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    email_id = await announce(database, zendesk, 1)
    await allow_two_calls(zendesk, database)
    await process(res, email_id, 1)

    states, pauses = [], []
    for _ in range(MOST_TRIES):
        await ask_when_due(res, database)
        states += await ends(database)
        pauses.append(await database.fetchval("SELECT original_due_at - now() FROM messages"))

    assert states[:-1] == [("completed", None, None)] * (MOST_TRIES - 1)
    assert states[-1] == ("completed", "not_available", "rate_limited")
    assert pauses.pop() is None
    assert timedelta(days=2) < sum(pauses, timedelta()) < timedelta(days=4)
    assert zendesk.state.calls["email.eml"] == 0


async def test_originals_that_wait_leave_calls_to_new_emails(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    email_id = await announce(database, zendesk, 1)
    await allow_two_calls(zendesk, database)
    await process(res, email_id, 1)
    await database.execute("UPDATE api_budgets SET calls_per_minute = 100, used = 20")

    assert not await ask_when_due(res, database)
    assert zendesk.state.calls["email.eml"] == 0


async def test_an_ended_token_costs_no_original(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Zendesk gave one before, so that a page to sign in says nothing of the account."""
    await process(res, await announce(database, zendesk, 2), 1)
    email_id = await announce(database, zendesk, 1)
    await database.execute("DELETE FROM api_budgets")
    await allow_two_calls(zendesk, database)
    await process(res, email_id, 1)
    await end_minute(database)
    zendesk.state.access_tokens.clear()
    await ask_when_due(res, database)

    assert await ends(database) == [("completed", "stored", None)] * 2
    assert await database.fetchval("SELECT no_originals_at FROM api_budgets") is None


async def test_a_refusal_of_the_account_is_no_verdict_on_an_email(
    res: Resources, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Where Zendesk gave originals before, it may do so again."""
    first, refused, unasked = [await announce(database, zendesk, ticket) for ticket in (1, 2, 3)]
    await process(res, first, 1)
    zendesk.state.gives_originals = False
    await process(res, refused, 1)
    calls = zendesk.state.calls["email.eml"]
    await process(res, unasked, 1)
    before = await ends(database)
    calls_of_third = zendesk.state.calls["email.eml"] - calls
    zendesk.state.gives_originals = True
    await database.execute("UPDATE api_budgets SET no_originals_at = no_originals_at - interval '1 day'")

    async with open_resources(settings) as later:
        while await ask_when_due(later, database):
            pass

    assert (before[1:], calls_of_third) == ([("completed", None, None)] * 2, 0)
    assert await ends(database) == [("completed", "stored", None)] * 3


async def test_an_account_that_gave_none_is_asked_by_attempts_alone(
    res: Resources, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.state.gives_originals = False
    email_ids = [await announce(database, zendesk, ticket) for ticket in (1, 2)]
    for email_id in email_ids:
        await process(res, email_id, 1)
    before, is_due = await ends(database), await ask_when_due(res, database)
    waiting = await database.fetchval("SELECT count(original_due_at) FROM messages")
    zendesk.state.gives_originals = True
    await database.execute("UPDATE api_budgets SET no_originals_at = no_originals_at - interval '1 day'")
    async with open_resources(settings) as later:
        await later.run(lambda conn: retry(conn, email_ids, "ada"))
        for email_id in email_ids:
            await process(later, email_id, 2)

    assert (before, is_due, waiting) == ([("completed", None, None)] * 2, False, 0)
    assert await ends(database) == [("completed", "stored", None)] * 2


async def test_a_pause_of_the_account_that_lasts_leaves_the_question_to_a_retry(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    for ticket in (1, 2):
        await process(res, await announce(database, zendesk, ticket), 1)
        zendesk.state.gives_originals = False
    for _ in range(MOST_TRIES):
        await ask_when_due(res, database)

    assert (await ends(database))[1] == ("completed", None, None)
    assert await database.fetchval("SELECT count(original_due_at) FROM messages") == 0


async def test_a_404_of_a_young_email_is_asked_for_again(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    email_id = await announce(database, zendesk, 1, created_at=datetime.now(UTC))
    known = dict(zendesk.state.originals)
    zendesk.state.originals.clear()
    async with open_resources(settings.model_copy(update={"early_seconds": 900})) as res:
        await process(res, email_id, 1)
        before = await ends(database)
        pause = await database.fetchval("SELECT original_due_at - now() FROM messages")
        zendesk.state.originals |= known
        await ask_when_due(res, database)

    assert before == [("completed", None, None)]
    assert timedelta(minutes=14) < pause <= timedelta(minutes=15)
    assert await database.fetchval("SELECT no_originals_at FROM api_budgets") is None
    assert await ends(database) == [("completed", "stored", None)]


async def test_an_answer_about_an_email_ends_the_question(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    await process(res, await announce(database, zendesk, 1), 1)
    gone = await announce(database, zendesk, 2)
    zendesk.state.originals.clear()
    await process(res, gone, 1)
    await process(
        res, await announce(database, zendesk, 3, original=b"Message-ID: <other@x>\r\n\r\nHello"), 1
    )

    assert (await ends(database))[1:] == [
        ("completed", "not_available", "original_not_available"),
        ("completed", "not_available", "original_unfit"),
    ]
    assert not await ask_when_due(res, database)


async def test_the_targets_get_the_date_of_a_late_original(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """With a version of its own: a receiver drops another document of a version that it has."""
    eml = b"Message-ID: <1@x.example>\r\nDate: Mon, 1 Jun 2026 10:00:00 +0200\r\n\r\nHello"
    email_id = await announce(database, zendesk, 1, message_id="<1@x.example>", original=eml)
    await allow_two_calls(zendesk, database)
    await process(res, email_id, 1)
    await database.execute("UPDATE incoming_emails SET sync_status = 'synced', synced_at = now()")
    await end_minute(database)
    await ask_when_due(res, database)

    row = await database.fetchrow(
        "SELECT processing_status, attempt_number, sync_status FROM incoming_emails"
    )
    assert tuple(row or ()) == ("completed", 2, "pending")
    assert await database.fetchval("SELECT sent_at FROM messages") == datetime(2026, 6, 1, 8, tzinfo=UTC)


async def test_the_original_of_an_email_with_an_erased_file_is_never_asked_for(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The file is a part of it. Neither is one kept that comes while the file is erased."""
    email_id = await announce(database, zendesk, 1, attachments=[zendesk.add_file("a.pdf", PDF)])
    await allow_two_calls(zendesk, database)
    await process(res, email_id, 1)
    sha256 = await database.fetchval("SELECT sha256 FROM attachments")
    receipt = await res.run(lambda conn: receipts.begin(conn, "erasure", "tests"))

    async def erase(conn: AsyncConnection) -> None:
        async with transaction(conn):
            await lock(conn, [email_id], for_delete=True)
            await erase_file(conn, sha256, [email_id], receipt)

    await res.run(erase)
    await end_minute(database)
    is_due = await ask_when_due(res, database)
    stored = await put(res, b"whole")
    await res.run(lambda conn: messages.save_original(conn, [messages.SavedOriginal(email_id, stored)]))
    after = await ends(database)
    await database.execute("UPDATE messages SET original = NULL")
    [state] = await res.run(lambda conn: messages.state_of(conn, [email_id]))

    assert (is_due, after) == (False, [("completed", "not_available", "erased")])
    assert state is not None
    assert not state.wants_original
    assert zendesk.state.calls["email.eml"] == 0
