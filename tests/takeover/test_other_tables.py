"""Rows and tables of another system: lists of files, constraints that refuse rows, and unexpected NULLs."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import asyncpg

from service.capture.attempt import process
from service.capture.sweep import sweep
from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.operate import bulk_retry
from service.postgres.selection import Selection
from service.queries.changes import list_changes
from service.resources import Resources
from service.sync.attempt import sync
from service.takeover.lists import read_next
from tests.conftest import API_TOKEN, Client, Server
from tests.support.access import basic
from tests.support.commands import typed
from tests.support.files import PDF

OLD = """
    INSERT INTO incoming_emails (zendesk_ticket_id, from_email, attachment_urls, processing_status)
    VALUES ('7', 'ann@b.example', $1, $2) RETURNING id
"""


async def email_of(database: asyncpg.Connection, email_id: int) -> asyncpg.Record:
    return await database.fetchrow("SELECT * FROM incoming_emails WHERE id = $1", email_id)


async def statuses(database: asyncpg.Connection, email_id: int) -> list[str]:
    rows = await database.fetch(
        "SELECT status FROM attachments WHERE email_id = $1 ORDER BY position", email_id
    )
    return [row["status"] for row in rows]


@asynccontextmanager
async def altered(database: asyncpg.Connection, change: str, back: str) -> AsyncIterator[None]:
    """Give the table the shape of another system, and restore it for the other tests of this process."""
    await database.execute(f"ALTER TABLE incoming_emails {change}")
    try:
        yield
    finally:
        await database.execute("TRUNCATE incoming_emails CASCADE")
        await database.execute(f"ALTER TABLE incoming_emails {back}")


async def test_attempt_fetches_files_of_an_unread_list(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    urls = [zendesk.add_file(name, PDF + name.encode()) for name in ("a.pdf", "b.pdf", "c.pdf")]
    listed = await database.fetchval(OLD, json.dumps([urls[0], f"{urls[1]},{urls[2]}"]), "received")
    joined = await database.fetchval(OLD, json.dumps(json.dumps([urls[0]])), "received")

    await asyncio.gather(process(res, listed, 1), process(res, joined, 1))

    assert [(await email_of(database, each))["processing_status"] for each in (listed, joined)] == [
        "completed",
        "completed",
    ]
    assert await statuses(database, listed) == ["stored"] * 3
    assert await statuses(database, joined) == ["stored"]


async def test_attempt_with_an_unreadable_list_fails_with_a_reason(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    many = await database.fetchval(
        OLD, json.dumps([f"https://a.example/{n}" for n in range(10_001)]), "received"
    )
    unknown = await database.fetchval(OLD, "null", "received")

    await asyncio.gather(process(res, many, 1), process(res, unknown, 1))

    failed = await email_of(database, many)
    assert failed["processing_status"] == "failed"
    assert (
        failed["processing_error"]
        == "The list of files cannot be read: There are more than 10,000 attachments."
    )
    # JSON's null is no list, so Zendesk is asked, and does not know the ticket.
    assert (await email_of(database, unknown))["processing_status"] != "completed"


async def test_lists_are_read_in_the_background_and_a_retry_fetches_files_of_finished_emails(
    res: Resources, database: asyncpg.Connection, zendesk: Zendesk, settings: Settings
) -> None:
    urls = [zendesk.add_file(name, PDF + name.encode()) for name in ("a.pdf", "b.pdf")]
    ids = [
        await database.fetchval(OLD, given, status)
        for given, status in (
            (json.dumps([urls[0]]), "completed"),
            (json.dumps([{"url": urls[1]}]), "failed"),
            (json.dumps([urls[1]]), "queued"),
            ("[]", "completed"),
            (json.dumps(["invoice.pdf"]), "completed"),  # without an address
        )
    ]

    first = await read_next(res.engine, 5, 0, 3)
    second = await read_next(res.engine, 5, first.after, 3)
    again = await read_next(res.engine, 5, 0, 3)

    assert (first.files, first.not_captured, second.after, again.after) == (3, 2, ids[-1], 0)
    assert [await statuses(database, each) for each in ids] == [
        ["failed"],
        ["failed"],
        ["pending"],
        [],
        ["failed"],
    ]
    told = [(await email_of(database, each))["error_code"] for each in ids]
    assert told == ["not_captured", "not_captured", None, None, "not_captured"]
    status = await typed(settings, "status")
    assert "2 completed e-mails have files of the previous system that were not captured" in status.stdout
    assert status.returncode == 3

    await bulk_retry.start(res, Selection(error_code="not_captured"), 100, "ann")
    assert await bulk_retry.step(res)
    for each in ids[:2]:
        await process(res, each, 1)

    assert [(await email_of(database, each))["error_code"] for each in ids[:2]] == [None, None]
    assert [await statuses(database, each) for each in ids[:2]] == [["stored"], ["stored"]]
    assert (await email_of(database, ids[4]))["processing_status"] == "queued"


async def test_refused_row_of_a_webhook_is_quarantined_and_others_are_saved(
    client: Client, database: asyncpg.Connection, zendesk: Zendesk
) -> None:
    def payload(number: int) -> dict[str, Any]:
        given: dict[str, Any] = {"ticket_id": number, "from_email": "ann@b.example", "attachments": []}
        if number % 8 == 0:
            del given["from_email"]
        if number % 8 == 1:
            given["subject"] = "x" * 51
        if number % 8 == 2:
            given["from_name"] = "Eve"
        return given

    old = (
        "ALTER from_email SET NOT NULL, ALTER subject TYPE varchar(50),"
        " ADD CONSTRAINT no_eve CHECK (from_name <> 'Eve'), ADD CONSTRAINT one_name UNIQUE (comment_id)"
    )
    new = "ALTER from_email DROP NOT NULL, ALTER subject TYPE text, DROP CONSTRAINT no_eve, DROP CONSTRAINT one_name"
    async with altered(database, old, new):
        answers = await asyncio.gather(*(client.send(payload(number)) for number in range(40)))
        doubled = [
            await client.send({"ticket_id": ticket, "comment_id": 5, "from_email": "a@b.example"})
            for ticket in (1, 2)
        ]

        replayed = await client.post(f"/api/v1/quarantine/{answers[0]['quarantine_id']}/replay", status=409)

    assert [answer["status"] == "quarantined" for answer in answers] == [n % 8 < 3 for n in range(40)]
    reasons = await database.fetch("SELECT error_code, error FROM quarantined_webhooks ORDER BY id")
    told = {(row["error_code"], row["error"].partition(". ")[0]) for row in reasons}
    assert told == {
        (
            "row_refused",
            "Postgres refuses a row without a value in the column incoming_emails.from_email (NOT NULL)",
        ),
        (
            "value_too_long",
            "incoming_emails.subject: Postgres: value too long for type character varying(50)",
        ),
        ("row_refused", "Postgres refuses a row that violates no_eve of incoming_emails"),
        ("row_refused", "Postgres refuses a row that violates a unique constraint of another system"),
    }
    assert [answer["status"] for answer in doubled] == ["accepted", "quarantined"]
    assert "from_email (NOT NULL)" in json.dumps(replayed)


async def test_attempts_with_refused_rows_fail_alone(res: Resources, database: asyncpg.Connection) -> None:
    ids = [await database.fetchval(OLD, "[]", "received") for _ in range(4)]
    refused = (
        f"ADD CONSTRAINT no_claim CHECK (id <> {ids[0]} OR processing_status <> 'processing'),"
        f" ADD CONSTRAINT no_end CHECK (id <> {ids[1]} OR processing_status <> 'completed')"
    )
    async with altered(database, refused, "DROP CONSTRAINT no_claim, DROP CONSTRAINT no_end"):
        await asyncio.gather(*(process(res, each, 1) for each in ids))

        ended = [await email_of(database, each) for each in ids]

    assert [each["processing_status"] for each in ended] == ["failed", "failed", "completed", "completed"]
    assert [each["error_code"] for each in ended[:2]] == ["row_refused", "row_refused"]
    assert ["no_claim" in ended[0]["processing_error"], "no_end" in ended[1]["processing_error"]] == [
        True,
        True,
    ]


async def test_abandoned_job_that_cannot_be_taken_back_blocks_no_other(
    res: Resources, database: asyncpg.Connection
) -> None:
    ids = [await database.fetchval(OLD, "[]", "processing") for _ in range(3)]
    refused = f"ADD CONSTRAINT no_rescue CHECK (id <> {ids[0]} OR processing_status = 'processing')"
    async with altered(database, refused, "DROP CONSTRAINT no_rescue"):
        await sweep(res)

        states = [(await email_of(database, each))["processing_status"] for each in ids]

    assert states == ["processing", "queued", "queued"]


NULLABLE = (
    "zendesk_ticket_id",
    "received_at",
    "idempotency_key",
    "processing_status",
    "retry_count",
    "sync_retry_count",
)


async def test_unexpected_null_breaks_no_list_page_export_or_attempt(
    client: Server, database: asyncpg.Connection, res: Resources, settings: Settings
) -> None:
    old = ", ".join(f"ALTER {name} DROP NOT NULL" for name in NULLABLE)
    async with altered(database, old, ", ".join(f"ALTER {name} SET NOT NULL" for name in NULLABLE)):
        nulls = ", ".join(NULLABLE)
        for status in ("NULL", "'completed'", "'failed'", "'received'"):
            for _ in range(2):
                await database.execute(
                    f"INSERT INTO incoming_emails ({nulls}, attachment_urls, queued_at)"
                    f" VALUES (NULL, NULL, NULL, {status}, NULL, NULL, '[]', NULL)"
                )

        pages = [
            await client.get(f"/api/v1/emails?limit=1{more}")
            for more in ("", "&status=failed", "&status=completed", "&received_before=2099-01-01")
        ]
        seen, cursor = [], ""
        while cursor is not None:
            page = await client.get(f"/api/v1/emails?limit=1&status=failed{cursor and f'&cursor={cursor}'}")
            seen += [email["id"] for email in page["emails"]]
            cursor = page["next_cursor"]
        details = [await client.email(number) for number in range(1, 9)]
        way_in = basic(API_TOKEN)
        shown = []
        for path in ("/", "/emails", "/emails/1", "/emails/6", "/failures", "/emails?status=failed"):
            async with client.session.get(f"{client.url}{path}", headers=way_in) as response:
                shown.append((response.status, "Sign in" in await response.text()))
        changes = (await list_changes(res.engine, Selection(), [1])).changes
        others = [await client.get(f"/api/v1/{name}") for name in ("stats", "failures")]
        said = [
            await typed(settings, *words)
            for words in (
                ("emails", "list"),
                ("emails", "show", "1"),
                ("emails", "export"),
                ("status",),
                ("reconcile",),
                ("emails", "retry", "--all", "--status", "completed", "--yes"),
            )
        ]
        await asyncio.gather(process(res, 7, 1), process(res, 8, 1))
        await sync(res, 3)

        ended = [(await email_of(database, number))["processing_status"] for number in (7, 8)]

    assert len(pages) == 4
    assert shown == [(200, False)] * 6
    assert len(changes) == 8
    assert seen == [6, 5]
    assert details[0]["received_at"] == "1970-01-01T00:00:00Z"
    assert details[0]["zendesk_ticket_id"] == details[0]["idempotency_key"] == ""
    assert others[1]["failures"][0]["count"] == 2
    assert [done.returncode for done in said] == [0, 0, 0, 3, 0, 0], said
    assert ended == ["completed", "completed"]


async def test_a_row_that_an_index_or_a_trigger_of_another_system_refuses_is_quarantined_alone(
    client: Client, database: asyncpg.Connection
) -> None:
    """An index holds no long value, and a trigger may raise any error: to wait helps neither."""
    of_another_system = """
        CREATE INDEX by_subject ON incoming_emails (subject);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no %', NEW.from_name; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON incoming_emails FOR EACH ROW
            WHEN (NEW.from_name = 'Eve') EXECUTE FUNCTION refuse();
    """
    long = token_hex(4000)  # Postgres packs a text with repetitions, so that an index holds it
    more: list[dict[str, str]] = [{"subject": long}, {"from_name": "Eve"}, *[{}] * 6]

    await database.execute(of_another_system)
    try:
        bodies = [{"ticket_id": number, "attachments": [], **each} for number, each in enumerate(more)]
        receipts = await asyncio.gather(*map(client.send, bodies))
        refused = await database.fetch("SELECT error_code, error FROM quarantined_webhooks ORDER BY error")
    finally:
        await database.execute("DROP FUNCTION refuse() CASCADE; DROP INDEX by_subject")

    assert [each["status"] for each in receipts] == ["quarantined"] * 2 + ["accepted"] * 6
    assert [each["error_code"] for each in refused] == ["row_refused", "row_refused"]
    assert "trigger of another system" in refused[0]["error"]
    assert "too long for the index by_subject of incoming_emails" in refused[1]["error"]
    assert all(secret not in each["error"] for each in refused for secret in (long[:50], "Eve"))
