"""Rows of earlier versions become one e-mail for each comment, in the background and by command."""

import asyncio
import json

import asyncpg

from service.config.settings import Settings
from service.jobs.identity import identify
from service.operate.merge import merge_all
from service.resources import Resources
from tests.conftest import eventually, working
from tests.support.commands import typed
from tests.support.merging import add_email, ids


async def add_twice(database: asyncpg.Connection, comments: int) -> list[int]:
    """Insert two e-mails for each comment, as two triggers made them; return the ids of the older ones."""
    first = [await add_email(database, comment_id=str(number)) for number in range(comments)]
    for number in range(comments):
        await add_email(database, comment_id=str(number))
    return first


async def test_workers_merge_in_the_background(settings: Settings, database: asyncpg.Connection) -> None:
    older = await add_twice(database, 3)

    async def is_merged() -> bool:
        return await ids(database) == older

    async with working(settings), working(settings):
        await eventually(is_merged)

    assert await database.fetchval("SELECT count(*) FROM incoming_emails WHERE identified") == 3


async def test_command_says_first_what_it_would_do(settings: Settings, database: asyncpg.Connection) -> None:
    older = await add_twice(database, 12)

    planned = await typed(settings, "merge", "--dry-run")
    untouched = await ids(database)
    done = await typed(settings, "merge", "--json")
    again = await typed(settings, "merge")

    lines = planned.stdout.splitlines()
    assert (
        lines[0] == "Of 24 e-mails, 12 would become part of an older e-mail of the same comment, and 12 stay."
    )
    assert lines[1] == "  e-mail 13 would become part of e-mail 1"
    assert (len(lines), lines[-1]) == (12, "  and 2 more")
    assert len(untouched) == 24
    report = json.loads(done.stdout)
    assert {name: report[name] for name in ("examined", "merged", "identified", "left")} == {
        "examined": 24,
        "merged": 12,
        "identified": 12,
        "left": 0,
    }
    assert report["examples"][0] == {"email_id": 13, "merged_into": 1}
    assert await ids(database) == older
    assert again.stdout == "Nothing to merge: each comment is one e-mail.\n"


async def test_command_names_what_it_left(settings: Settings, database: asyncpg.Connection) -> None:
    await add_email(database)
    await add_email(database, "processing")
    await database.execute("UPDATE incoming_emails SET lease_until = now() + interval '1 min'")

    done = await typed(settings, "merge")

    assert done.returncode == 0
    assert done.stderr == "2 left for later: an attempt runs, or another process has them.\n"


async def test_a_pass_that_ends_midway_is_continued_by_the_next(
    res: Resources, database: asyncpg.Connection
) -> None:
    older = await add_twice(database, 150)

    async for stopped in merge_all(res.engine, 10):
        assert stopped.examined == 200
        break
    midway = len(await ids(database))
    rest = [step async for step in merge_all(res.engine, 10)][-1]

    assert midway == 250
    assert (rest.examined, rest.merged) == (100, 100)
    assert await ids(database) == older


async def test_many_processes_merge_each_row_once(res: Resources, database: asyncpg.Connection) -> None:
    older = await add_twice(database, 60)

    async def all_of_it() -> int:
        merged = 0
        while await database_has_more(res):
            async for step in merge_all(res.engine, 10):
                merged = max(merged, step.merged)
        return merged

    await asyncio.gather(*(all_of_it() for _ in range(4)))

    requests = await database.fetch("SELECT email_id, count(*) FROM announcements GROUP BY 1 ORDER BY 1")
    assert await ids(database) == older
    assert [tuple(row) for row in requests] == [(email_id, 1) for email_id in older]


async def database_has_more(res: Resources) -> bool:
    step = await res.run(lambda conn: identify(conn, 0, 1, dry_run=True))
    return step.examined > 0
