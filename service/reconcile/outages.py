"""Ask Postgres and the target, and do not give a long run up for a short outage."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Transient
from service.postgres.engine import insist, run
from service.resources import Resources

T = TypeVar("T")

TRIES = 3
PAUSE_SECONDS = 1.0


async def ask(res: Resources, statement: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run a statement, for up to a minute while Postgres is away; it must bear to be repeated."""
    return await insist(partial(run, res.engine, res.settings.database_seconds, statement))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call that failed for a reason that may pass; raises Transient when it did not."""
    for _ in range(TRIES - 1):
        try:
            return await call()
        except Transient:
            await asyncio.sleep(PAUSE_SECONDS)
    return await call()
