"""Postgres is restored from an older dump: that is told at once, and nothing that only looks like it is."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from service.alerts.watch import look_once
from service.checks.postgres import check_history
from service.queries import overview
from service.resources import Resources

Look = Callable[[], Awaitable[list[str]]]
RESTORED = "Postgres is older than it was"


@pytest.fixture
def look(res: Resources, database: asyncpg.Connection) -> Look:
    """Look whether something is the matter, as if it were time; return what is open."""

    async def look() -> list[str]:
        await database.execute("UPDATE alert_watch SET next_at = now()")
        assert await look_once(res)
        rows = await database.fetch(
            "SELECT detail FROM alerts WHERE key = 'restored' AND resolved_at IS NULL"
        )
        return [row["detail"] for row in rows]

    return look


async def receive(database: asyncpg.Connection, *hours: int) -> None:
    await database.executemany(
        "INSERT INTO incoming_emails (idempotency_key, zendesk_ticket_id, received_at, processing_status)"
        " VALUES (gen_random_uuid(), '1', now() - $1 * interval '1 hour', 'completed')",
        [(each,) for each in hours],
    )


async def restore(database: asyncpg.Connection, last: int) -> None:
    """Take Postgres back to when this e-mail was the newest, as a dump does."""
    await database.execute("DELETE FROM incoming_emails WHERE id > $1", last)
    await database.execute("SELECT setval(pg_get_serial_sequence('incoming_emails', 'id'), $1)", last)


@pytest.mark.parametrize("came_since", [0, 1, 2, 5])
async def test_a_restored_dump_is_told_at_once_also_where_more_came_since(
    came_since: int, look: Look, database: asyncpg.Connection, res: Resources
) -> None:
    await receive(database, 9, 8, 7, 6)
    assert await look() == []
    await restore(database, 2)
    await receive(database, *[0] * came_since)

    first = await look()
    shown = await overview.summarize(res.engine, res.settings)
    later = [await look() for _ in range(3)]
    checked = await check_history(res)

    begin, end = await database.fetchrow(
        "SELECT to_char(now() - interval '8 hours', 'YYYY-MM-DD HH24:'), to_char(now() - interval '6 hours', 'YYYY-MM-DD HH24:')"
    )
    assert len(first) == 1
    assert f"E-mails received between {begin}" in first[0]
    assert f" and {end}" in first[0]
    assert later == [first] * 3, "it is told for a day, and once"
    assert RESTORED in shown.verdict
    assert (checked.ok, RESTORED in checked.found) == (False, True)


async def test_after_a_day_it_was_told(look: Look, database: asyncpg.Connection, res: Resources) -> None:
    await receive(database, 9, 8)
    await look()
    await restore(database, 1)
    await look()
    await look()
    await database.execute(
        "UPDATE alerts SET opened_at = now() - interval '25 h', seen_at = now() - interval '1 h'"
    )

    assert await look() == []
    assert (await check_history(res)).ok


async def test_an_emptied_database_is_told(look: Look, database: asyncpg.Connection) -> None:
    await receive(database, 9)
    await look()
    await database.execute("TRUNCATE incoming_emails RESTART IDENTITY CASCADE")

    (told,) = await look()

    assert "E-mails received before " in told


async def erase(database: asyncpg.Connection, res: Resources) -> None:
    await database.execute("DELETE FROM incoming_emails WHERE id > 1")


async def empty_redis(database: asyncpg.Connection, res: Resources) -> None:
    await res.redis.flushall()
    await restore(database, 1)


async def spoil(database: asyncpg.Connection, res: Resources) -> None:
    for name in await res.redis.keys("holdfast:newest:*"):
        await res.redis.set(name, b'{"id": []')


async def share_redis(database: asyncpg.Connection, res: Resources) -> None:
    """Another installation, which is larger, keeps its mark there, too."""
    await res.redis.set(
        "holdfast:newest:0123456789abcdef", b'{"id": 9000, "at": "2026-01-01T00:00:00+00:00"}'
    )


async def burn_numbers(database: asyncpg.Connection, res: Resources) -> None:
    await database.execute(
        "SELECT nextval(pg_get_serial_sequence('incoming_emails', 'id')) FROM generate_series(1, 9)"
    )


@pytest.mark.parametrize("happens", [erase, empty_redis, spoil, share_redis, burn_numbers])
async def test_nothing_else_is_taken_for_it(
    happens: Callable[[asyncpg.Connection, Resources], Awaitable[None]],
    look: Look,
    database: asyncpg.Connection,
    res: Resources,
) -> None:
    await receive(database, 9, 8, 7)
    await look()
    await happens(database, res)

    first = await look()
    await receive(database, 0)

    assert (first, await look()) == ([], [])
