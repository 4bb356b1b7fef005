"""The faults that a drill injects: each does harm for a while, and takes it away again, whatever happens."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from random import Random

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.local.drill import processes, storage, targets
from service.local.drill.ground import Ground, Missed

Harm = Callable[[Ground, Random], Awaitable[None]]

MOST_CONNECTIONS = 100


async def _redis_flush(ground: Ground, _: Random) -> None:
    async with _redis(ground) as redis:
        await redis.flushall()


async def _redis_restart(ground: Ground, _: Random) -> None:
    await processes.end(ground.servers["valkey"], signal.SIGKILL)


async def _redis_away(ground: Ground, _: Random) -> None:
    ground.redis.cut()
    try:
        await asyncio.sleep(20)
    finally:
        await ground.redis.resume()


async def _redis_slow(ground: Ground, _: Random) -> None:
    ground.redis.delay = 5
    try:
        await asyncio.sleep(8)
    finally:
        ground.redis.delay = 0


async def _redis_full(ground: Ground, _: Random) -> None:
    """Every write is refused: OOM."""
    async with _redis(ground) as redis, _memory(redis, "noeviction", 1):
        await asyncio.sleep(5)


async def _redis_evict(ground: Ground, _: Random) -> None:
    """Keys go at random, to make room for others."""
    async with _redis(ground) as redis:
        used = (await redis.info("memory"))["used_memory"]
        async with _memory(redis, "allkeys-random", int(used * 0.99)):
            await asyncio.sleep(6)


async def _postgres_kill(ground: Ground, _: Random) -> None:
    await processes.end(ground.servers["postgres"], signal.SIGKILL)


async def _postgres_restart(ground: Ground, _: Random) -> None:
    await processes.end(ground.servers["postgres"], signal.SIGINT)


async def _postgres_terminate(ground: Ground, _: Random) -> None:
    async with _postgres(ground) as postgres:
        await _terminate_all(postgres)


async def _postgres_full(ground: Ground, _: Random) -> None:
    """Take every connection there is, and let nobody in for a while."""
    taken: list[asyncpg.Connection] = []
    try:
        async with _postgres(ground) as postgres:
            await _terminate_all(postgres)
            with suppress(asyncpg.PostgresError):
                while len(taken) < MOST_CONNECTIONS:
                    taken.append(await asyncpg.connect(ground.database_url, timeout=5))
            await asyncio.sleep(4)
    finally:
        for connection in taken:
            connection.terminate()


async def _postgres_lock(ground: Ground, _: Random) -> None:
    """Hold the lock of a migration that takes its time, longer than a webhook waits."""
    async with _postgres(ground) as postgres, postgres.transaction():
        await postgres.execute("SET LOCAL lock_timeout = '5s'")
        await postgres.execute("LOCK TABLE incoming_emails IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(8)


async def _postgres_unknown(ground: Ground, chance: Random) -> None:
    """Cut the connection on which a webhook is committed: after Postgres got it, or before."""
    ground.postgres.trip(b"/attachments/token/", arrives=chance.random() < 0.7, cuts=False)
    try:
        await asyncio.wait_for(ground.postgres.sprung.wait(), 5)
    finally:
        ground.postgres.disarm()


async def _postgres_frozen(ground: Ground, _: Random) -> None:
    ground.postgres.freeze()
    try:
        await asyncio.sleep(7)
    finally:
        await ground.postgres.resume()


async def _postgres_stranded(ground: Ground, _: Random) -> None:
    """Leave all connections without an answer for ever, as a failover does; new ones work."""
    ground.postgres.strand()


FAULTS: Mapping[str, Harm] = {
    **processes.FAULTS,
    **storage.FAULTS,
    **targets.FAULTS,
    "redis.flush": _redis_flush,
    "redis.restart": _redis_restart,
    "redis.away": _redis_away,
    "redis.slow": _redis_slow,
    "redis.full": _redis_full,
    "redis.evict": _redis_evict,
    "postgres.kill": _postgres_kill,
    "postgres.restart": _postgres_restart,
    "postgres.terminate": _postgres_terminate,
    "postgres.full": _postgres_full,
    "postgres.lock": _postgres_lock,
    "postgres.unknown": _postgres_unknown,
    "postgres.frozen": _postgres_frozen,
    "postgres.stranded": _postgres_stranded,
}


async def inject(fault: str, ground: Ground, chance: Random) -> bool:
    """Do the harm, and undo it; False where that could not be done, because of another fault perhaps.

    Raises Stubborn.
    """
    try:
        await FAULTS[fault](ground, chance)
    except (Missed, OSError, TimeoutError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError):
        task = asyncio.current_task()
        if task and task.cancelling():  # an error of the cleaning-up is in the way of the cancellation
            raise asyncio.CancelledError from None
        return False
    return True


@asynccontextmanager
async def _redis(ground: Ground) -> AsyncIterator[Redis]:
    redis = Redis.from_url(ground.redis_url)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def _memory(redis: Redis, policy: str, most: int) -> AsyncIterator[None]:
    await redis.config_set("maxmemory-policy", policy)
    await redis.config_set("maxmemory", most)
    try:
        yield
    finally:
        with suppress(RedisError, OSError):  # a restarted one has no limit
            await redis.config_set("maxmemory", 0)
            await redis.config_set("maxmemory-policy", "noeviction")


@asynccontextmanager
async def _postgres(ground: Ground) -> AsyncIterator[asyncpg.Connection]:
    """Connect past the proxy."""
    connection = await asyncpg.connect(ground.database_url, timeout=5)
    try:
        yield connection
    finally:
        connection.terminate()


async def _terminate_all(postgres: asyncpg.Connection) -> None:
    await postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
    )
