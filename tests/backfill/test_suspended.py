"""Suspended e-mails reach no ticket: they are kept as what they are, and become their e-mail once recovered."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.backfill import requests, suspended
from service.backfill.record import History
from service.capture.attempt import process
from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.contents import known_contents
from service.resources import Resources
from tests.support.backfill import comments, last_run, make_due, search, source, steps, without_pause
from tests.support.files import PDF


async def kept(database: asyncpg.Connection) -> list[dict[str, Any]]:
    rows = await database.fetch("SELECT * FROM suspended_emails ORDER BY CAST(suspended_id AS bigint)")
    return [{**row, "files": json.loads(row["files"])} for row in rows]


def content(settings: Settings, key: str) -> bytes:
    return (Path((settings.storage_url or "").removeprefix("file://")) / key).read_bytes()


async def look(res: Resources, database: asyncpg.Connection, zendesk: Zendesk) -> None:
    await make_due(database, hourly=True)
    await search(res, database, zendesk)


async def test_a_suspended_e_mail_is_kept_with_its_files(
    res: Resources, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    file = zendesk.add_file("a.pdf", PDF)
    number = zendesk.suspend(
        subject="Invoice", cause="Detected as spam", text="Please pay", attachments=[file]
    )

    await steps(res)
    (row,) = await kept(database)
    record = await asyncio.to_thread(content, settings, row["record_key"])
    stored = await asyncio.to_thread(content, settings, row["files"][0]["object_key"])

    assert (row["suspended_id"], row["subject"], row["cause"]) == (str(number), "Invoice", "Detected as spam")
    assert (row["from_address"], row["recipient"], row["text"]) == (
        "mara@customer.example",
        "support@acme.example",
        "Please pay",
    )
    assert (row["gone_at"], row["email_id"]) == (None, None)
    assert json.loads(record) == zendesk.state.listings.suspended[number]
    assert (row["files"][0]["file_name"], row["files"][0]["error_code"], stored) == ("a.pdf", None, PDF)
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 0


@pytest.mark.parametrize("offset_pages", [True, False])
async def test_all_pages_are_read_and_each_one_is_kept_once(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, *, offset_pages: bool
) -> None:
    zendesk.state.listings.offset_pages = offset_pages
    numbers = [zendesk.suspend() for _ in range(230)]

    await search(res, database, zendesk)
    await look(res, database, zendesk)

    assert [row["suspended_id"] for row in await kept(database)] == list(map(str, numbers))
    assert all(row["gone_at"] is None for row in await kept(database))


async def test_suspended_ones_are_read_while_the_current_search_fails(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """Zendesk deletes them after two weeks: an export that is broken for longer must not cost them."""
    await steps(res)
    zendesk.state.listings.times_out_above = 0
    number = zendesk.suspend()
    await make_due(database, hourly=True)
    await steps(res)
    failed = await source(database)
    await without_pause(database, zendesk)

    await steps(res)
    found = await source(database)

    assert (failed["error_code"], failed["suspended_at"]) == ("server_error", None)
    assert [row["suspended_id"] for row in await kept(database)] == [str(number)]
    assert found["suspended_at"] is not None
    assert (found["error_code"], found["failed_at"]) == ("server_error", failed["failed_at"])


@pytest.mark.parametrize("kind", ["current", "history"])
async def test_a_search_goes_on_while_a_file_of_a_suspended_one_fails(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection, kind: str
) -> None:
    """A sender could stop the search with it, for a week."""
    await steps(res)
    url = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=503)] * 100)
    zendesk.suspend(attachments=[url])
    await make_due(database, hourly=True)
    await steps(res)
    failed = await source(database)
    made = zendesk.add_email(
        77, created_at=datetime.now(UTC) - timedelta(days=30 if kind == "history" else 0)
    )
    if kind == "history":
        wanted = History(datetime.now(UTC) - timedelta(days=31), None, dry_run=False)
        await requests.begin(res, wanted, "grace")
    else:
        await make_due(database)

    for _ in range(6):
        await without_pause(database, zendesk)
        await steps(res)

    assert failed["error_code"] == "server_error"
    assert await comments(database) == [str(made)]
    assert (await last_run(database))["finished_at"] is not None
    assert (await source(database))["error_code"] == "server_error", "the lists are tried again"


async def test_the_current_search_goes_between_the_steps_of_many_suspended_ones(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    for _ in range(suspended.MOST_NEW + 5):
        zendesk.suspend()

    taken = await steps(res)

    assert taken == 3, "the search, and two steps for the list"
    assert len(await kept(database)) == suspended.MOST_NEW + 5


async def test_a_recovered_one_becomes_its_e_mail(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    first, second = zendesk.suspend(), zendesk.suspend()
    await steps(res)
    comment_id = zendesk.recover(first, 77)
    await look(res, database, zendesk)
    gone = await kept(database)
    email = await database.fetchrow("SELECT * FROM incoming_emails")
    assert email is not None
    await process(res, email["id"], 1)

    await look(res, database, zendesk)
    rows = await kept(database)

    assert [row["gone_at"] is not None for row in gone] == [True, False]
    assert email["comment_id"] == str(comment_id)
    assert [row["email_id"] for row in rows] == [email["id"], None]
    assert rows[1]["suspended_id"] == str(second)


async def test_one_that_is_listed_again_is_no_longer_gone(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    number = zendesk.suspend()
    await steps(res)
    item = zendesk.state.listings.suspended.pop(number)
    await look(res, database, zendesk)
    (gone,) = await kept(database)
    zendesk.state.listings.suspended[number] = item
    await look(res, database, zendesk)
    (back,) = await kept(database)

    assert gone["gone_at"] is not None
    assert back["gone_at"] is None


async def test_an_error_within_the_list_takes_nothing_for_gone(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    for _ in range(150):
        zendesk.suspend()
    await search(res, database, zendesk)
    await make_due(database, hourly=True)
    zendesk.state.api_faults += [Fault(), Fault(), Fault(), Fault(status=500)]

    await steps(res)
    failed = await source(database)
    await search(res, database, zendesk)

    assert failed["error_code"] == "server_error"
    assert all(row["gone_at"] is None for row in await kept(database))
    assert (await source(database))["error_code"] is None


async def test_the_error_of_a_file_is_kept_with_the_file(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    number = zendesk.suspend(attachments=[zendesk.add_file("a.pdf", PDF, faults=[Fault(status=404)])])
    files = zendesk.state.listings.suspended[number]["attachments"]
    assert isinstance(files, list)
    files += [
        {"content_url": "http://169.254.1.1/secret", "file_name": "b.pdf"},
        {"content_url": f"{zendesk.url}/api/v2/users/me.json", "file_name": "c.pdf"},
        {"file_name": "d.pdf"},
        "no file",
    ]

    await steps(res)
    (row,) = await kept(database)

    assert [file["error_code"] for file in row["files"]] == [
        "not_found",
        "address_refused",
        "bad_url",
        "bad_url",
        "bad_url",
    ]


async def test_a_kill_between_two_of_them_loses_none(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """The list is read from its beginning; what is kept already is not stored again."""
    numbers = [zendesk.suspend() for _ in range(3)]
    await steps(res)
    await database.execute("DELETE FROM suspended_emails WHERE suspended_id <> $1", str(numbers[1]))

    await look(res, database, zendesk)

    assert [row["suspended_id"] for row in await kept(database)] == list(map(str, numbers))


async def test_its_objects_are_not_taken_for_unused_ones(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    zendesk.suspend(attachments=[zendesk.add_file("a.pdf", PDF)])
    await steps(res)
    (row,) = await kept(database)
    hashes = [row["record_sha256"], row["files"][0]["sha256"]]

    assert await res.run(lambda conn: known_contents(conn, [*hashes, "f" * 64])) == {*hashes}


async def test_hostile_values_are_kept_cut_and_clean(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    number = zendesk.suspend(subject="a\0b" + "x" * 5_000, text="\ud800" + "€" * 100_000)
    item = zendesk.state.listings.suspended[number]
    item |= {"author": ["no author"], "cause": {"a": 1}, "created_at": "yesterday", "message_id": 7}

    await steps(res)
    (row,) = await kept(database)

    assert len(row["subject"]) == 1_000
    assert len(row["text"].encode()) <= 65_536
    assert (row["from_address"], row["cause"], row["created_at"], row["message_id"]) == (
        None,
        None,
        None,
        "7",
    )


async def test_old_ones_that_are_gone_are_not_searched_for_for_ever(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    message_id = "<one@customer.example>"
    number = zendesk.suspend(message_id=message_id, created_at=datetime.now(UTC) - timedelta(days=14))
    await steps(res)
    zendesk.state.listings.suspended.pop(number)
    await look(res, database, zendesk)
    await database.execute("UPDATE suspended_emails SET gone_at = now() - interval '3 days'")
    zendesk.add_email(77, message_id=message_id)
    await look(res, database, zendesk)
    await process(res, await database.fetchval("SELECT id FROM incoming_emails"), 1)

    await look(res, database, zendesk)
    (row,) = await kept(database)

    assert row["email_id"] is None


async def test_a_file_that_cannot_be_stored_now_is_tried_again(
    res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    """An e-mail that is kept without its file would never get it, and the others do not wait for it."""
    url = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=503)])
    zendesk.suspend(attachments=[url])
    zendesk.suspend()
    await steps(res)
    before = await database.fetchval("SELECT count(*) FROM suspended_emails")

    await search(res, database, zendesk)

    rows = await kept(database)
    assert (before, len(rows)) == (1, 2)
    assert [file["error_code"] for row in rows for file in row["files"]] == [None]
