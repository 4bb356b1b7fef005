"""A restore of Postgres from an older dump causes an alert at once; similar events do not."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from service.alerts.watch import look_once
from service.checks.postgres import check_history
from service.queries import overview
from service.resources import Resources

Look = Callable[[], Awaitable[list[str]]]
RESTORED = "Postgres lost e-mails"


@pytest.fixture
def look(res: Resources, database: asyncpg.Connection) -> Look:
    """Return a function that takes a turn to look, and returns the texts of open alerts about a restore."""

    async def look() -> list[str]:
        await database.execute("UPDATE alert_watch SET next_at = now()")
        assert await look_once(res)
        rows = await database.fetch(
            "SELECT detail FROM alerts WHERE key = 'restored' AND resolved_at IS NULL"
        )
        return [row["detail"] for row in rows]

    return look


async def receive(database: asyncpg.Connection, *hours: int) -> None:
    """Add e-mails that were received so many hours ago."""
    await database.executemany(
        "INSERT INTO incoming_emails (idempotency_key, zendesk_ticket_id, received_at, processing_status)"
        " VALUES (gen_random_uuid(), '1', now() - $1 * interval '1 hour', 'completed')",
        [(each,) for each in hours],
    )


async def restore(database: asyncpg.Connection, last: int) -> None:
    """Delete all e-mails after this one and reset the sequence, as a restore of a dump does."""
    await database.execute("DELETE FROM incoming_emails WHERE id > $1", last)
    await database.execute("SELECT setval(pg_get_serial_sequence('incoming_emails', 'id'), $1)", last)


@pytest.mark.parametrize("came_since", [0, 1, 2, 5])
async def test_restore_causes_an_alert_at_once_even_if_more_emails_came(
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
    assert later == [first] * 3, "the alert stays open, and does not change"
    assert RESTORED in shown.verdict
    assert (checked.ok, RESTORED in checked.found) == (False, True)


async def test_alert_ends_after_one_day(look: Look, database: asyncpg.Connection, res: Resources) -> None:
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


async def test_emptied_database_causes_an_alert(look: Look, database: asyncpg.Connection) -> None:
    await receive(database, 9)
    await look()
    await database.execute("TRUNCATE incoming_emails RESTART IDENTITY CASCADE")

    (detail,) = await look()

    assert "E-mails received before " in detail


async def delete(database: asyncpg.Connection, res: Resources) -> None:
    await database.execute("DELETE FROM incoming_emails WHERE id > 1")


async def empty_redis(database: asyncpg.Connection, res: Resources) -> None:
    await res.redis.flushall()
    await restore(database, 1)


async def corrupt_mark(database: asyncpg.Connection, res: Resources) -> None:
    for name in await res.redis.keys("holdfast:newest:*"):
        await res.redis.set(name, b'{"id": []')


async def share_redis(database: asyncpg.Connection, res: Resources) -> None:
    """Another, larger installation keeps its mark in the same Redis."""
    await res.redis.set(
        "holdfast:newest:0123456789abcdef", b'{"id": 9000, "at": "2026-01-01T00:00:00+00:00"}'
    )


async def skip_ids(database: asyncpg.Connection, res: Resources) -> None:
    await database.execute(
        "SELECT nextval(pg_get_serial_sequence('incoming_emails', 'id')) FROM generate_series(1, 9)"
    )


@pytest.mark.parametrize("happens", [delete, empty_redis, corrupt_mark, share_redis, skip_ids])
async def test_similar_events_cause_no_alert(
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
