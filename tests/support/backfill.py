"""Back-fills in tests: steps one after the other, and what they left."""

import json
from typing import Any

import asyncpg

from service.backfill.run import step
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources

# An open search, or one that is due.
_IS_DUE = """
    SELECT EXISTS (SELECT FROM backfills WHERE finished_at IS NULL)
        OR EXISTS (SELECT FROM sources WHERE due_at <= now() OR suspended_at IS NULL)
"""


async def steps(res: Resources, most: int = 1_000) -> int:
    """Take steps until none is due or the next one is put off; return how many there were."""
    taken = 0
    while await step(res):
        taken += 1
        assert taken < most, "the back-fill does not end"
    return taken


async def search(res: Resources, database: asyncpg.Connection, zendesk: Zendesk, most: int = 1_000) -> int:
    """Take steps until all that is due is done, without the pauses after errors and at rate limits."""
    taken = 0
    while True:
        taken += await steps(res, most)
        if not await database.fetchval(_IS_DUE):
            return taken
        taken += 1
        assert taken < most, "the back-fill does not end"
        await without_pause(database, zendesk)


async def without_pause(database: asyncpg.Connection, zendesk: Zendesk) -> None:
    """End the pause of the back-fill, and the minute of the rate limits."""
    await database.execute("UPDATE sources SET lease_until = NULL")
    await database.execute("UPDATE api_budgets SET window_ends_at = now() - interval '1 second'")
    zendesk.state.end_minute()
    zendesk.state.listings.end_minute()


async def make_due(database: asyncpg.Connection, *, hourly: bool = False) -> None:
    await database.execute("UPDATE sources SET due_at = now()")
    if hourly:
        await database.execute("UPDATE sources SET suspended_at = NULL")


async def source(database: asyncpg.Connection) -> asyncpg.Record:
    row = await database.fetchrow("SELECT * FROM sources")
    assert row is not None
    return row


async def last_run(database: asyncpg.Connection) -> dict[str, Any]:
    row = await database.fetchrow("SELECT * FROM backfills ORDER BY id DESC LIMIT 1")
    assert row is not None
    return {**row, "position": json.loads(row["position"]) if row["position"] else None}


async def comments(database: asyncpg.Connection) -> list[str]:
    """Return the comments that are e-mails, in order; one that is two e-mails stands twice."""
    rows = await database.fetch("SELECT comment_id FROM incoming_emails ORDER BY CAST(comment_id AS bigint)")
    return [row["comment_id"] for row in rows]
