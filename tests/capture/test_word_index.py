"""An e-mail is found by the words of all its parts, soon after it has them, and by those of earlier versions."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

import asyncpg
import pytest

from service.capture.word_index import index_for_ever, write_words
from service.postgres.words import MOST_WORDS
from service.queries.emails import EmailFilter, list_emails
from service.resources import Resources
from tests.conftest import eventually
from tests.support.merging import add_file, add_message
from tests.support.rows import add

PEOPLE = [{"name": "Grace Hopper", "address": "grace@navy.example"}]
COPIED = [{"name": None, "address": "konrad.zuse@rechner.example"}]


async def add_whole(database: asyncpg.Connection) -> int:
    """Insert an e-mail that has something in each of its parts; return its id."""
    email_id = await add(
        database,
        zendesk_ticket_id="815",
        subject="Aus dem Webhook",
        from_email="ada@firma-nord.example",
        processing_status="failed",
        error_code="attachment_gone",
        processing_error="Der Server files.example sagte 404.",
    )
    text = "Guten Tag,\n\nanbei die Kündigung zum Vertrag V-4711 (RE 2026/1003).\n\n発注書をお送りします。"
    await add_message(
        database,
        email_id,
        subject="Vertrag",
        from_name="Ada Lovelace",
        from_address="ada@firma-nord.example",
        **{'"to"': json.dumps(PEOPLE)},
        cc=json.dumps(COPIED),
        text=text,
    )
    await add_file(database, email_id, file_name="Anlage_B.PDF")
    return email_id


async def find(res: Resources, query: str) -> list[int]:
    return [email.id for email in (await list_emails(res.engine, EmailFilter(q=query))).emails]


async def write(res: Resources, *email_ids: int) -> Sequence[bool]:
    return await asyncio.gather(*(res.batch(write_words, email_id) for email_id in email_ids))


@pytest.mark.parametrize(
    ("query", "where", "match"),
    [
        ("815", "ticket", "815"),
        ("vertrag", "subject", "Vertrag"),
        ("lovelace", "from", "Lovelace"),
        ("ada@firma-nord", "from", "ada@firma-nord"),
        ("hopper", "to", "Hopper"),
        ("zuse", "cc", "zuse"),
        ("KUENDIGUNG", "text", "Kündigung"),
        ("v4711", "text", "V-4711"),
        ("2026/1003", "text", "2026/1003"),
        ("発注書", "text", "発注"),
        ("anlage_b.pdf", "file", "Anlage_B.PDF"),
        ("attachment_gone", "error", "attachment_gone"),
        ("404", "error", "404"),
    ],
)
async def test_an_email_is_found_by_each_of_its_parts(
    query: str, where: str, match: str, res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add_whole(database)
    await add(database, subject="Something else")

    written = await write(res, email_id)
    page = await list_emails(res.engine, EmailFilter(q=query))

    assert written == [True]
    [email] = page.emails
    assert email.id == email_id
    assert [(found.where, found.match) for found in email.matches] == [(where, match)]


async def test_words_of_different_parts_find_it_together_and_each_is_shown(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add_whole(database)
    await write(res, email_id)

    [email] = (await list_emails(res.engine, EmailFilter(q="pdf kuendigung hopper"))).emails

    assert {found.where: found.match for found in email.matches} == {
        "file": "PDF",
        "to": "Hopper",
        "text": "Kündigung",
    }
    text = next(found for found in email.matches if found.where == "text")
    assert (text.before, text.after[:22]) == ("Guten Tag, anbei die ", " zum Vertrag V-4711 (R")
    assert await find(res, "pdf kuendigung nowhere") == []


async def test_the_text_of_a_webhook_is_found_where_there_is_no_message(
    res: Resources, database: asyncpg.Connection
) -> None:
    body = json.dumps({"ticket_id": "1", "comment_body": "Mahnung über 1.234,56 EUR"}).encode()
    email_id = await add(database, raw_body=body, raw_headers='[["Content-Type", "application/json"]]')
    await write(res, email_id)

    [email] = (await list_emails(res.engine, EmailFilter(q="1234,56 mahnung"))).emails

    assert email.id == email_id
    assert [(found.where, found.match, found.after) for found in email.matches] == [
        ("text", "1.234,56", " EUR")
    ]


async def test_words_change_with_the_email(res: Resources, database: asyncpg.Connection) -> None:
    email_id = await add(database, subject="Rechnung")
    await write(res, email_id)
    await database.execute("UPDATE incoming_emails SET subject = 'Gutschrift'")
    await write(res, email_id)

    assert await find(res, "gutschrift") == [email_id]
    assert await find(res, "rechnung") == []


async def test_an_email_without_words_is_found_by_ticket_sender_subject_and_file(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add(database, subject="Neue Rechnung", from_email="ada@firma.example")
    await add_file(database, email_id, file_name="Anlage.pdf")

    found = [await find(res, query) for query in ("rechnung", "4711", "ada@firma", "anlage neue", "nichts")]

    assert found == [[email_id]] * 4 + [[]]


async def test_missing_words_are_written_in_the_background(
    res: Resources, database: asyncpg.Connection
) -> None:
    new = await add(database, subject="Just received")
    old = [
        await database.fetchval(
            "INSERT INTO incoming_emails (zendesk_ticket_id, subject, received_at)"
            " VALUES ('1', 'Kündigung', now() - interval '1 min') RETURNING id"
        )
        for _ in range(30)
    ]

    async def is_written() -> bool:
        return bool(await database.fetchval("SELECT count(*) = $1 FROM email_words", len(old)))

    works = [asyncio.create_task(index_for_ever(res)) for _ in range(2)]
    await eventually(is_written)
    for work in works:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    assert await find(res, "kuendigung") == old[::-1]
    assert await database.fetchval("SELECT count(*) FROM email_words WHERE email_id = $1", new) == 0


async def test_words_of_an_email_that_is_gone_are_dropped(
    res: Resources, database: asyncpg.Connection
) -> None:
    email_id = await add(database)

    assert await write(res, email_id + 1, email_id, email_id) == [False, True, True]
    assert await database.fetchval("SELECT array_agg(email_id) FROM email_words") == [email_id]


async def test_texts_of_any_size_are_written(res: Resources, database: asyncpg.Connection) -> None:
    """Postgres refuses words that are too long, and more than a megabyte of them."""
    long = " ".join(chr(0x10400 + number % 40) * 120 + f"{number:x}" for number in range(8_000))
    email_id = await add(database, subject="begin " + "x" * 1_000_000, processing_error=long)
    many = " ".join(f"{number:x}" for number in range(3 * MOST_WORDS))
    await add_message(database, email_id, text=many, from_name=long, **{'"to"': json.dumps(PEOPLE * 5_000)})

    assert await write(res, email_id) == [True]
    assert await find(res, "begin") == [email_id]
