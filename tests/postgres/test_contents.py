"""Whether any content is on record."""

import asyncpg
import pytest

from service.postgres.contents import has_no_contents
from service.resources import Resources
from tests.support.merging import add_email, add_file, add_message
from tests.support.source import suspend

SHA256 = "ab" * 32


@pytest.mark.parametrize("kind", ["file", "message", "suspended"])
async def test_each_kind_of_content_is_seen(res: Resources, database: asyncpg.Connection, kind: str) -> None:
    email_id = await add_email(database)
    await add_file(database, email_id, status="failed")
    before = await res.run(has_no_contents)

    if kind == "file":
        await add_file(database, email_id, 1, sha256=SHA256)
    elif kind == "message":
        await add_message(database, email_id)
    else:
        await suspend(database, "acme.zendesk.com", 1)

    assert (before, await res.run(has_no_contents)) == (True, False)
