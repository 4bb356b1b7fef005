"""Connections to Postgres, time budgets for them, and what its errors mean."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.errors import Permanent, Transient

T = TypeVar("T")

# Beyond these, another one is better told at once to come again than kept waiting.
MOST_WAITING = 2_000
PATIENCE_SECONDS = 2.5

# By then a lease has run out, and the job is somebody else's.
INSIST_SECONDS = 60.0

# The connections of a pool are closed one after the other.
GOODBYE_SECONDS = 0.2

# Statements that outlived their caller's budget; the set keeps them referenced until they end.
_abandoned: set[asyncio.Task[Any]] = set()


def create_engine(url: str, *, pool_size: int, seconds: float) -> AsyncEngine:
    """Make an engine on which each statement is a transaction of its own; nothing connects yet.

    asyncpg itself reads the URL, so that Heroku's `postgres://` and libpq's parameters (`sslmode`,
    `host=/socket/directory`, …) mean what they mean everywhere. `seconds` bounds connecting, waiting
    for the pool, and (twice over) any statement.
    """
    dsn = url.replace("postgresql+asyncpg://", "postgresql://", 1)

    async def connect() -> Any:  # noqa: ANN401 asyncpg has no types
        return await asyncpg.connect(
            dsn,
            timeout=seconds,
            command_timeout=2 * seconds,
            connection_class=_Connection,
            server_settings={"application_name": "holdfast"},
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=seconds,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )


async def close_engine(engine: AsyncEngine) -> None:
    """Close the pool, after a moment for the statements that outlived their budget."""
    loop = asyncio.get_running_loop()
    if left := {task for task in _abandoned if task.get_loop() is loop}:
        await asyncio.wait(left, timeout=GOODBYE_SECONDS)
    await engine.dispose()
    await asyncio.sleep(0)  # a connection that was aborted closes its socket in the loop's next turn


class _Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """Says goodbye without insisting on an answer: else a dead server held up the end of the process."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 asyncpg's signature
        with suppress(TimeoutError, OSError, asyncpg.InterfaceError):
            await super().close(timeout=timeout or GOODBYE_SECONDS)


@asynccontextmanager
async def connect(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection.

    Raises Transient for whatever waiting may heal, and Permanent for a value that Postgres refuses.
    """
    try:
        async with engine.connect() as connection:
            yield connection
    except DataError as exc:
        raise Permanent("unstorable", "Postgres cannot store a value of this request") from exc
    except DBAPIError as exc:
        code = "database_disconnected" if exc.connection_invalidated else "database_unavailable"
        raise Transient(code, f"Postgres: {type(exc.orig).__name__}") from exc
    except (OSError, TimeoutError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        raise Transient("database_unavailable", f"Postgres cannot be reached: {type(exc).__name__}") from exc


class Gate:
    """Lets in as many as there are connections, and makes a queue of the others, as long as it moves."""

    def __init__(self, size: int) -> None:
        self._places = asyncio.Semaphore(size)
        self._queue: dict[object, float] = {}  # since when each waits; the first has waited longest

    def check(self) -> None:
        """Raise Transient where the queue is too long."""
        since = next(iter(self._queue.values()), None)
        if len(self._queue) >= MOST_WAITING or (since and time.monotonic() - since > PATIENCE_SECONDS):
            raise Transient("overloaded", "More requests come in than Postgres can take.")

    async def __aenter__(self) -> None:
        self.check()
        me = object()
        self._queue[me] = time.monotonic()
        try:
            await self._places.acquire()
        finally:
            del self._queue[me]

    async def __aexit__(self, *_: object) -> None:
        self._places.release()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work` no longer than its budget, then leave it behind and raise Transient.

    It is left, not awaited: a statement that hangs on a dead connection also hangs when cancelled.
    """
    task = asyncio.create_task(work)
    _abandoned.add(task)
    task.add_done_callback(_forget)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        raise Transient("database_slow", f"Postgres did not answer within {seconds:g} s")
    return task.result()


async def insist(engine: AsyncEngine, statement: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Repeat a statement while Postgres is away: what a worker has done is worth waiting for.

    Raises Transient after INSIST_SECONDS.
    """
    deadline = time.monotonic() + INSIST_SECONDS
    while True:
        try:
            async with connect(engine) as conn:
                return await statement(conn)
        except Transient:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(random.uniform(0.2, 1))  # noqa: S311 no secret


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()
