"""Bulk retries, run step by step."""

import asyncio

import asyncpg

from service.operate import bulk_retry
from service.postgres.selection import Selection
from service.queries.retries import BulkRetryView, get_retry
from service.resources import Resources

FAILED = Selection(status="failed")
ONE_AT_A_TIME = asyncio.Lock()


async def all_steps(res: Resources, database: asyncpg.Connection) -> int:
    """Run all steps at once, without waiting until they are due; return their number."""
    steps = 0
    while await bulk_retry.step(res):
        steps += 1
        async with ONE_AT_A_TIME:
            await database.execute("UPDATE bulk_retries SET next_at = now() WHERE status = 'running'")
    return steps


async def begin(res: Resources, wanted: Selection, per_second: int = 100) -> int:
    return await bulk_retry.start(res, wanted, per_second, "ada (tests)")


async def show(res: Resources, number: int) -> BulkRetryView:
    return await get_retry(res.engine, number)
