"""Which e-mails have a content: by their files, and by the objects of their messages."""

import asyncpg
import pytest

from service.config.settings import Settings
from service.errors import Rejected
from service.queries.emails import list_holders
from service.resources import Resources
from tests.support.commands import typed
from tests.support.merging import add_email, add_file, add_message

A, B = "aa" * 32, "bb" * 32


async def test_messages_are_found_by_their_record_and_their_original(
    res: Resources, database: asyncpg.Connection
) -> None:
    first, second = await add_email(database), await add_email(database)
    original = {"original": "stored", "original_sha256": B, "original_key": "k", "original_size": 7}
    await add_message(database, first, record_sha256=A, **original)
    await add_message(database, second, record_sha256=B)
    await add_file(database, second, sha256=A)

    of_a, of_b = [await list_holders(res.engine, sha256) for sha256 in (A, B)]

    assert [(each.email_id, each.position) for each in of_a.holders] == [(second, 0)]
    assert [(each.email_id, each.part, each.size) for each in of_a.messages] == [(first, "record", 2)]
    assert [(each.email_id, each.part, each.size) for each in of_b.messages] == [
        (second, "record", 2),
        (first, "original", 7),
    ]
    assert not of_b.holders
    with pytest.raises(Rejected):
        await list_holders(res.engine, "cc" * 32)


async def test_command_lists_messages_too(settings: Settings, database: asyncpg.Connection) -> None:
    email_id = await add_email(database)
    await add_message(database, email_id, record_sha256=A)

    done = await typed(settings, "emails", "holding", A)

    assert done.stdout == f"{email_id}\trecord\t2\t\n"
