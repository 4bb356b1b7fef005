"""One e-mail for each comment: merges lose nothing and repeat nothing, whoever runs at the same time."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import identity
from service.jobs.arrival import Arrival, receive
from service.jobs.merging import Pair
from service.postgres.engine import connect, transaction
from service.resources import Resources
from tests.conftest import eventually
from tests.support.merging import (
    COMMENT,
    TICKET,
    add_attempt,
    add_email,
    add_file,
    add_message,
    files,
    ids,
    url,
)
from tests.support.rows import add, add_quarantined, add_reconciliation, is_waiting_for_a_lock

A, B = "aa" * 32, "bb" * 32


@pytest.fixture
async def conn(res: Resources) -> AsyncIterator[AsyncConnection]:
    async with connect(res.engine) as conn:
        yield conn


async def email(database: asyncpg.Connection, email_id: int) -> Any:
    return await database.fetchrow("SELECT * FROM incoming_emails WHERE id = $1", email_id)


async def test_a_merged_email_leaves_its_request_to_the_other(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first = await add_email(database, raw_body=b"first", idempotency_key="one")
    second = await add_email(
        database, raw_body=b"second", idempotency_key="two", signature_hash=b"s", late=True, invocation_id="i"
    )

    await identity.merge(conn, first, second)

    request = await database.fetchrow("SELECT * FROM announcements")
    assert await ids(database) == [first]
    assert (await email(database, first))["raw_body"] == b"first"
    assert (request["email_id"], request["idempotency_key"], request["raw_body"]) == (first, "two", b"second")
    assert (request["signature_hash"], request["late"], request["invocation_id"]) == (b"s", True, "i")


async def test_a_merged_email_is_remembered_and_so_are_those_merged_into_it_before(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second, third = [await add_email(database, idempotency_key=key) for key in ("1", "2", "3")]

    await identity.merge(conn, second, third)
    await identity.merge(conn, first, second)

    merged = await database.fetch("SELECT id, email_id, idempotency_key FROM merged_emails ORDER BY id")
    requests = await database.fetch("SELECT email_id, idempotency_key FROM announcements ORDER BY 2")
    assert [tuple(row) for row in merged] == [(second, first, "2"), (third, first, "3")]
    assert [tuple(row) for row in requests] == [(first, "2"), (first, "3")]


async def test_a_request_with_the_key_of_another_body_is_kept_too(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first = await add_email(database, idempotency_key="one")
    second = await add_email(database, idempotency_key="two", raw_body=b"second")
    await add(
        database,
        "announcements",
        email_id=first,
        idempotency_key="two",
        raw_body=b"other",
        raw_headers="[]",
    )

    await identity.merge(conn, first, second)

    bodies = await database.fetch("SELECT raw_body FROM announcements WHERE email_id = $1 ORDER BY 1", first)
    assert [row["raw_body"] for row in bodies] == [b"other", b"second"]


@pytest.mark.parametrize("status", ["pending", "failed"])
async def test_a_stored_copy_wins_over_one_that_is_still_to_be_fetched(
    conn: AsyncConnection, database: asyncpg.Connection, status: str
) -> None:
    first, second = await add_email(database), await add_email(database)
    await add_file(
        database, first, source_url=url("x", "a=1"), status=status, error_code="gone", error="Gone."
    )
    await add_file(database, second, source_url=url("x", "b=2"), sha256=A, file_name="a.txt")

    await identity.merge(conn, first, second)

    row = await database.fetchrow("SELECT * FROM attachments")
    assert (row["email_id"], row["status"], row["sha256"], row["size"]) == (first, "stored", A, 3)
    assert (row["object_key"], row["file_name"]) == (f"sha256/aa/{A[2:]}", "a.txt")
    assert (row["error_code"], row["error"]) == (None, None)


async def test_a_stored_file_is_not_overwritten(conn: AsyncConnection, database: asyncpg.Connection) -> None:
    first, second = await add_email(database), await add_email(database)
    await add_file(database, first, source_url=url("x"), sha256=A)
    await add_file(database, second, source_url=url("x"), sha256=B)  # another content at the same address
    await add_file(database, second, 1, source_url=url("x"), status="pending")

    await identity.merge(conn, first, second)

    assert await files(database, first) == [(0, "stored", A, None), (1, "stored", B, None)]
    assert (await email(database, first))["processing_status"] == "completed"


async def test_files_are_matched_by_content_and_name_where_addresses_differ(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second = await add_email(database), await add_email(database)
    await add_file(database, first, source_url=url("x"), sha256=A, file_name="a.txt")
    await add_file(database, second, 0, source_url=url("y"), sha256=A, file_name="A.txt")
    await add_file(database, second, 1, source_url=url("z"), sha256=A, file_name="a.txt")  # sent twice

    await identity.merge(conn, first, second)

    assert [file[1:3] for file in await files(database, first)] == [("stored", A)] * 2


async def test_a_file_that_was_announced_without_its_address_gets_it(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second = await add_email(database, "queued"), await add_email(database, "queued")
    await add_file(database, first, source_url="", file_name="a.txt")
    await add_file(database, second, source_url=url("x"), file_name="A.txt")

    await identity.merge(conn, first, second)

    rows = await database.fetch("SELECT position, source_url, status FROM attachments")
    assert [tuple(row) for row in rows] == [(0, url("x"), "pending")]


@pytest.mark.parametrize(
    ("status", "file", "then"),
    [
        ("completed", {"status": "pending"}, "queued"),
        ("completed", {"status": "failed", "error_code": "gone"}, "queued"),
        ("completed", {"sha256": B}, "completed"),
        ("failed", {"sha256": B}, "queued"),
        ("queued", {"status": "pending"}, "queued"),
        ("received", {"status": "pending"}, "received"),
        ("completed", {"status": "failed", "error_code": "not_captured"}, "completed"),
    ],
)
async def test_an_email_that_was_failed_or_has_files_to_fetch_is_queued_again(
    conn: AsyncConnection, database: asyncpg.Connection, status: str, file: dict[str, Any], then: str
) -> None:
    first = await add_email(
        database, status, retry_count=3, error_code="gone" if status == "failed" else None
    )
    second = await add_email(database)
    await add_file(database, first, source_url=url("x"), sha256=A)
    await add_file(database, second, source_url=url("y"), **file)

    await identity.merge(conn, first, second)

    row = await database.fetchrow("SELECT *, due_at <= now() AS is_due FROM incoming_emails")
    assert row["processing_status"] == then
    assert row["is_due"]
    if (status, then) == ("failed", "queued"):
        assert (row["retry_count"], row["error_code"], row["completed_at"]) == (0, None, None)
    added = (await files(database, first))[1]
    waits_for_a_person = file.get("error_code") == "not_captured"
    assert added[1] == ("stored" if "sha256" in file else "failed" if waits_for_a_person else "pending")


@pytest.mark.parametrize(("file", "news"), [({"status": "pending"}, True), ({"sha256": B}, False)])
async def test_a_running_attempt_is_followed_by_another_one_where_it_does_not_know_a_file(
    conn: AsyncConnection, database: asyncpg.Connection, file: dict[str, Any], *, news: bool
) -> None:
    first, second = await add_email(database, "processing"), await add_email(database)
    await add_file(database, second, source_url=url("y"), **file)

    await identity.merge(conn, first, second)

    row = await email(database, first)
    assert (row["processing_status"], row["has_news"]) == ("processing", news)


async def test_attempts_keep_their_outcomes_under_numbers_from_0_down(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second, third = [await add_email(database, attempt_number=2) for _ in range(3)]
    for email_id in (first, second, third):
        await add_attempt(database, email_id, 1, "released")
    await add_attempt(database, second, 2, "failed")
    await add_attempt(database, third, 2, None)

    await identity.merge(conn, first, second)
    await identity.merge(conn, first, third)

    rows = await database.fetch("SELECT number, outcome FROM attempts WHERE email_id = $1 ORDER BY 1", first)
    assert [tuple(row) for row in rows] == [
        (-3, "released"),
        (-2, "handed_back"),
        (-1, "released"),
        (0, "failed"),
        (1, "released"),
    ]


async def test_what_refers_to_a_merged_email_refers_to_the_other(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second = await add_email(database), await add_email(database)
    await add(database, "operator_actions", actor="ann", action="retry", email_id=second)
    await add_quarantined(database, "not_json", email_id=second)
    await add(
        database,
        "ignored_webhooks",
        idempotency_key="i",
        event_type="e",
        raw_body=b"",
        raw_headers="[]",
        email_id=second,
    )
    run = await add_reconciliation(database)
    await add(
        database,
        "reconciliation_findings",
        reconciliation_id=run,
        kind="missing",
        email_id=second,
        key="k",
        detail="{}",
    )

    await identity.merge(conn, first, second)

    for table in ("operator_actions", "quarantined_webhooks", "ignored_webhooks", "reconciliation_findings"):
        assert await database.fetchval(f"SELECT email_id FROM {table}") == first, table


async def test_a_message_goes_to_an_email_that_has_none(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second, third = [await add_email(database, sync_status="synced") for _ in range(3)]
    await add_message(database, second, text="second")
    await add_message(database, third, text="third", original="stored", original_key="k", original_sha256=B)

    await identity.merge(conn, first, second)
    await identity.merge(conn, first, third)

    rows = await database.fetch("SELECT email_id, text, original, original_key FROM messages")
    assert [tuple(row) for row in rows] == [(first, "second", "stored", "k")]
    assert (await email(database, first))["sync_status"] == "pending"  # its document has another content


async def test_a_merged_email_that_listed_its_files_says_so_for_the_other(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first = await add_email(
        database, "failed", error_code="files_unknown", attachment_urls=None, subject=None
    )
    second = await add_email(database, subject="Invoice", from_email="ann@acme.example")

    await identity.merge(conn, first, second)

    row = await email(database, first)
    assert (row["attachment_urls"], row["subject"], row["from_email"]) == (
        "[]",
        "Invoice",
        "ann@acme.example",
    )


async def test_columns_of_a_previous_system_are_kept(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second = await add_email(database), await add_email(database, raw_body=None)
    await database.execute('ALTER TABLE incoming_emails ADD COLUMN "as:signed" text')
    try:
        await database.execute('UPDATE incoming_emails SET "as:signed" = $1 WHERE id = $2', "ann", second)

        await identity.merge(conn, first, second)

        kept = await database.fetchval("SELECT other_columns FROM merged_emails")
    finally:
        await database.execute('ALTER TABLE incoming_emails DROP COLUMN "as:signed"')
    assert kept == '{"as:signed":"ann"}'
    assert await database.fetchval("SELECT count(*) FROM announcements") == 0  # it had no request


async def test_resolve_merges_into_the_older_email(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    older = await add_email(database, comment_id="", account_id=None)
    newer = await add_email(database, identified=True, account_id="")
    other = await add_email(database, identified=True, account_id="2")

    resolved = await identity.resolve(conn, older, COMMENT)

    row = await email(database, older)
    assert (resolved, await ids(database)) == (older, [older, other])
    assert (row["comment_id"], row["identified"]) == (COMMENT, True)
    assert await identity.resolve(conn, newer, COMMENT) == older  # it is known what became of it


async def test_resolve_returns_the_older_email_that_is_the_comment_already(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    older = await add_email(database, identified=True)
    newer = await add_email(database, comment_id=None)

    assert await identity.resolve(conn, newer, COMMENT) == older
    assert await identity.resolve(conn, older, COMMENT) == older
    assert await ids(database) == [older]


async def test_resolve_gives_no_identity_that_no_index_can_hold(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    email_id = await add_email(database, account_id="x" * 3000)

    assert await identity.resolve(conn, email_id, COMMENT) == email_id
    assert not (await email(database, email_id))["identified"]


async def test_concurrent_resolves_leave_one_email(res: Resources, database: asyncpg.Connection) -> None:
    email_ids = [await add_email(database, comment_id=None, idempotency_key=str(key)) for key in range(12)]

    resolved = await asyncio.gather(
        *(res.run(lambda conn, each=each: identity.resolve(conn, each, COMMENT)) for each in email_ids)  # type: ignore[misc]
    )

    [left] = await ids(database)
    assert left == min(email_ids)
    assert await identity_of(res, resolved) == {left}
    assert await database.fetchval("SELECT count(*) FROM announcements WHERE email_id = $1", left) == 11


async def identity_of(res: Resources, email_ids: list[int]) -> set[int]:
    """Return what the e-mails are by now: a result may have been merged after it was returned."""
    return {
        await res.run(lambda conn, each=each: identity.resolve(conn, each, COMMENT))  # type: ignore[misc]
        for each in email_ids
    }


async def test_a_batch_identifies_and_merges_into_the_oldest(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second, third = [await add_email(database) for _ in range(3)]
    alone = await add_email(database, comment_id="816")
    unnamed = await add_email(database, comment_id="")
    known = await add_email(database, identified=True, comment_id="817")
    again = await add_email(database, comment_id="817")

    result = await identity.identify(conn, 0, 100)

    named = await database.fetch("SELECT id FROM incoming_emails WHERE identified ORDER BY id")
    assert [row["id"] for row in named] == [first, alone, known]
    assert await ids(database) == [first, alone, unnamed, known]
    assert result.merged == [Pair(first, second), Pair(first, third), Pair(known, again)]
    assert (result.after, result.examined, result.identified, result.left) == (0, 5, 2, 0)


async def test_a_newer_email_that_is_the_comment_is_merged_into_the_older(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    older = await add_email(database)
    await add_email(database, identified=True)

    await identity.identify(conn, 0, 100)

    assert await ids(database) == [older]
    assert (await email(database, older))["identified"]


async def test_batches_continue_by_id(conn: AsyncConnection, database: asyncpg.Connection) -> None:
    email_ids = [await add_email(database) for _ in range(5)]

    first = await identity.identify(conn, 0, 2)
    second = await identity.identify(conn, first.after, 2)
    third = await identity.identify(conn, second.after, 2)

    assert (first.after, second.after, third.after) == (email_ids[1], email_ids[3], 0)
    assert await ids(database) == email_ids[:1]


async def test_a_running_attempt_is_left_alone(conn: AsyncConnection, database: asyncpg.Connection) -> None:
    first, second = await add_email(database), await add_email(database, "processing")
    await database.execute(
        "UPDATE incoming_emails SET lease_until = now() + interval '1 min' WHERE id = $1", second
    )

    running = await identity.identify(conn, 0, 100)
    await database.execute("UPDATE incoming_emails SET lease_until = now()")
    ended = await identity.identify(conn, 0, 100)

    assert (running.merged, running.left) == ([], 2)
    assert (ended.merged, ended.left) == ([Pair(first, second)], 0)


async def test_rows_that_another_transaction_has_are_left_to_a_later_pass(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second = await add_email(database), await add_email(database)
    alone = await add_email(database, comment_id="816")

    async with database.transaction():
        await database.execute("SELECT FROM incoming_emails WHERE id = $1 FOR UPDATE", second)
        locked = await identity.identify(conn, 0, 100)

    assert (locked.merged, locked.identified, locked.left) == ([], 1, 2)
    assert (await email(database, alone))["identified"]
    assert not (await email(database, first))["identified"]


async def test_a_row_that_another_table_refers_to_stays_and_delays_no_other(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first, second = await add_email(database), await add_email(database)
    third, _ = await add_email(database, comment_id="816"), await add_email(database, comment_id="816")
    await database.execute("CREATE TABLE theirs (email bigint REFERENCES incoming_emails)")
    try:
        await database.execute("INSERT INTO theirs VALUES ($1)", second)

        result = await identity.identify(conn, 0, 100)
    finally:
        await database.execute("DROP TABLE theirs")

    assert await ids(database) == [first, second, third]
    assert (result.left, result.identified) == (2, 1)


async def test_a_dry_run_says_what_would_be_and_writes_nothing(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    for comment in ("1", "1", "2", "3", "1"):
        await add_email(database, comment_id=comment)
    await add_email(database, comment_id="3", identified=True)
    before = await database.fetch("SELECT id, identified, xmin::text FROM incoming_emails ORDER BY id")

    foreseen, after = [], 0
    while True:
        step = await identity.identify(conn, after, 2, dry_run=True)
        foreseen += step.merged
        if not (after := step.after):
            break
    unchanged = await database.fetch("SELECT id, identified, xmin::text FROM incoming_emails ORDER BY id")
    done = await identity.identify(conn, 0, 100)

    assert unchanged == before
    assert sorted((pair.into, pair.gone) for pair in foreseen) == sorted(
        (pair.into, pair.gone) for pair in done.merged
    )


async def test_a_merge_is_whole_or_not_at_all(conn: AsyncConnection, database: asyncpg.Connection) -> None:
    first, second = await add_email(database), await add_email(database)
    await add_file(database, second, source_url=url("y"), sha256=B)

    async def fail() -> None:
        async with transaction(conn):
            await identity.merge(conn, first, second)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await ids(database) == [first, second]
    assert await files(database, second) == [(0, "stored", B, None)]
    assert await database.fetchval("SELECT count(*) FROM merged_emails") == 0


async def test_a_repeated_delivery_of_a_merged_request_is_recognised(
    conn: AsyncConnection, database: asyncpg.Connection
) -> None:
    first = await add_email(database, idempotency_key="one")
    second = await add_email(database, idempotency_key="two", raw_body=b"second")
    await identity.merge(conn, first, second)

    again = {"zendesk_ticket_id": TICKET, "idempotency_key": "two", "raw_body": b"second"}
    [recorded] = await receive(conn, [Arrival(again)])

    assert (recorded.email_id, recorded.is_new, recorded.is_same) == (first, False, True)


@pytest.mark.parametrize("at_once", [True, False])
async def test_of_two_bodies_with_one_key_about_known_comments_none_is_lost(
    res: Resources, database: asyncpg.Connection, *, at_once: bool
) -> None:
    """A template may give one `webhook_id` to two e-mails that the look-up found before their webhooks came."""
    known = [await add_email(database, comment_id=comment, identified=True) for comment in ("1", "2")]
    arrivals = [
        Arrival(
            {
                "idempotency_key": "one",
                "account_id": "1",
                "zendesk_ticket_id": TICKET,
                "comment_id": comment,
                "raw_body": comment.encode(),
                "raw_headers": [],
            }
        )
        for comment in ("1", "2")
    ]
    if at_once:
        recorded = await res.run(lambda conn: receive(conn, arrivals))
    else:
        async with asyncio.timeout(60), database.transaction():
            # The other announcement is not committed when this one looks for its key.
            await add(
                database,
                "announcements",
                email_id=known[0],
                idempotency_key="one",
                raw_body=b"1",
                raw_headers="[]",
            )
            later = asyncio.create_task(res.run(lambda conn: receive(conn, arrivals[1:])))
            await eventually(partial(is_waiting_for_a_lock, database))
        recorded = [*await res.run(lambda conn: receive(conn, arrivals[:1])), *await later]

    kept = await database.fetch("SELECT email_id, raw_body FROM announcements")
    assert [each.is_same for each in recorded] == [True, False], "the other body goes into quarantine"
    assert [(row["email_id"], bytes(row["raw_body"])) for row in kept] == [(known[0], b"1")]
