"""The faults that a drill injects. Each harms one part for a while and always undoes the harm."""

import asyncio
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.local.drill.installation import (
    COLLECTION,
    POSTGRES_AWAY,
    RECEIVER,
    SYNC_SECONDS,
    Installation,
    NoEffect,
)
from service.local.drill.process_faults import PROCESS_FAULTS, Fault, end
from service.local.drill.proxy import Proxy
from service.local.zendesk.stand_in import Fault as Scripted

_MOST_CONNECTIONS = 100
_STORAGE_SECONDS = 6
_CLOSED_SECONDS = 20
# Bytes that only a write to a target contains: a BSON command, and the start of a message.
_TARGET_WRITES = {COLLECTION: b"\x02update\x00", RECEIVER: b'{"type":"email.'}


async def _redis_flush(installation: Installation, _: Random) -> None:
    async with _connect_to_redis(installation) as redis:
        await redis.flushall()


async def _redis_full(installation: Installation, _: Random) -> None:
    """Have Redis refuse every write with OOM."""
    async with _connect_to_redis(installation) as redis, _memory_limit(redis, "noeviction", 1):
        await asyncio.sleep(5)


async def _redis_evict(installation: Installation, _: Random) -> None:
    """Have Redis drop random keys to make room for others."""
    async with _connect_to_redis(installation) as redis:
        used = (await redis.info("memory"))["used_memory"]
        async with _memory_limit(redis, "allkeys-random", int(used * 0.99)):
            await asyncio.sleep(6)


async def _postgres_terminate(installation: Installation, _: Random) -> None:
    async with _connect_to_postgres(installation) as postgres:
        await _terminate_sessions(postgres)


async def _postgres_full(installation: Installation, _: Random) -> None:
    """Take all connections of Postgres for some seconds."""
    taken: list[asyncpg.Connection] = []
    try:
        async with _connect_to_postgres(installation) as postgres:
            await _terminate_sessions(postgres)
            with suppress(asyncpg.PostgresError):
                while len(taken) < _MOST_CONNECTIONS:
                    taken.append(await asyncpg.connect(installation.database_url, timeout=5))
            await asyncio.sleep(4)
    finally:
        for connection in taken:
            connection.terminate()


async def _postgres_lock(installation: Installation, _: Random) -> None:
    """Lock the table as a slow migration would, for longer than a webhook waits."""
    async with _connect_to_postgres(installation) as postgres, postgres.transaction():
        await postgres.execute("SET LOCAL lock_timeout = '5s'")
        await postgres.execute("LOCK TABLE incoming_emails IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(8)


async def _postgres_unknown(installation: Installation, chance: Random) -> None:
    """Cut the connection that saves a file's address, before or after Postgres receives the statement."""
    await _trip(installation.postgres, b"/attachments/token/", arrives=chance.random() < 0.7)


async def _postgres_stranded(installation: Installation, _: Random) -> None:
    """Leave all connections without an answer for ever, as a failover does; new ones work."""
    installation.postgres.strand()


async def _storage_full(installation: Installation, _: Random) -> None:
    """Let no worker write another byte to a file, as a disk quota would."""
    workers = [child.process for name, child in installation.processes.items() if name.startswith("worker.")]
    pids = [process.pid for process in workers if process]
    _limit_file_size(pids, 0)
    try:
        await asyncio.sleep(_STORAGE_SECONDS)
    finally:
        _limit_file_size(pids, resource.RLIM_INFINITY)


async def _storage_away(installation: Installation, _: Random) -> None:
    """Replace the storage's directory by a device file."""
    _link(installation.storage, Path(os.devnull))
    try:
        await asyncio.sleep(_STORAGE_SECONDS)
    finally:
        _link(installation.storage, installation.objects)


async def _target_unknown(installation: Installation, chance: Random) -> None:
    """Cut the connection of a write: mostly after the target received it, else before."""
    name = chance.choice([*installation.targets])
    await _trip(installation.targets[name], _TARGET_WRITES[name], arrives=chance.random() < 0.8)


async def _zendesk_limited(installation: Installation, chance: Random) -> None:
    """Refuse the next calls of Zendesk's API, as after too many."""
    refused = [Scripted(status=429, headers={"Retry-After": "1"})] * chance.randint(1, 3)
    await _script(installation.zendesk.state.api_faults, refused)


async def _zendesk_failing(installation: Installation, chance: Random) -> None:
    """Let the next calls of Zendesk's API fail, or come late."""
    answers = (
        Scripted(status=503, headers={"Retry-After": "1"}),
        Scripted(status=500),
        Scripted(delay_seconds=3),
    )
    await _script(installation.zendesk.state.api_faults, [chance.choice(answers) for _ in range(2)])


async def _zendesk_tokens(installation: Installation, _: Random) -> None:
    """End all access tokens before their time."""
    if not installation.zendesk.state.access_tokens:
        raise NoEffect
    installation.zendesk.state.access_tokens.clear()


async def _zendesk_exports(installation: Installation, _: Random) -> None:
    """Close the export of events, as Zendesk does for some programs; the account is searched in the other way then."""
    installation.zendesk.state.listings.closed = 403
    try:
        await asyncio.sleep(_CLOSED_SECONDS)
    finally:
        installation.zendesk.state.listings.closed = None


async def _script(answers: deque[Scripted], scripted: Sequence[Scripted]) -> None:
    """Give these answers to the next calls; raises NoEffect if there was no call."""
    answers.extend(scripted)
    try:
        for _moment in range(100):
            if not answers:
                return
            await asyncio.sleep(0.05)
        if len(answers) >= len(scripted):
            raise NoEffect
    finally:
        answers.clear()


def _end_server(name: str, how: signal.Signals) -> Fault:
    async def fault(installation: Installation, _: Random) -> None:
        await end(installation.servers[name], how)

    return fault


def _end_targets(how: signal.Signals) -> Fault:
    async def fault(installation: Installation, chance: Random) -> None:
        names = _choose_targets(installation, chance)
        await asyncio.gather(*(end(installation.servers[name], how) for name in names))

    return fault


def _harm_server(name: str, harm: Callable[[Proxy], None], seconds: float) -> Fault:
    async def fault(installation: Installation, _: Random) -> None:
        await _harm([installation.proxies[name]], harm, seconds)

    return fault


def _harm_targets(harm: Callable[[Proxy], None], seconds: float) -> Fault:
    async def fault(installation: Installation, chance: Random) -> None:
        names = _choose_targets(installation, chance)
        await _harm([installation.targets[name] for name in names], harm, seconds)

    return fault


def _delay(seconds: float) -> Callable[[Proxy], None]:
    def delay(proxy: Proxy) -> None:
        proxy.delay = seconds

    return delay


FAULTS: Mapping[str, Fault] = {
    **PROCESS_FAULTS,
    **({"storage.full": _storage_full} if sys.platform == "linux" else {}),
    "storage.away": _storage_away,
    "zendesk.limited": _zendesk_limited,
    "zendesk.failing": _zendesk_failing,
    "zendesk.tokens": _zendesk_tokens,
    "zendesk.exports": _zendesk_exports,
    "target.kill": _end_targets(signal.SIGKILL),
    "target.restart": _end_targets(signal.SIGTERM),
    "target.away": _harm_targets(Proxy.cut, 15),  # longer than any attempt
    "target.slow": _harm_targets(
        _delay(SYNC_SECONDS + 1), SYNC_SECONDS * 2
    ),  # longer than a request's timeout
    "target.frozen": _harm_targets(Proxy.freeze, SYNC_SECONDS * 2),
    "target.unknown": _target_unknown,
    "redis.flush": _redis_flush,
    "redis.restart": _end_server("valkey", signal.SIGKILL),
    "redis.away": _harm_server("valkey", Proxy.cut, 20),
    "redis.slow": _harm_server("valkey", _delay(5), 8),
    "redis.full": _redis_full,
    "redis.evict": _redis_evict,
    "postgres.kill": _end_server("postgres", signal.SIGKILL),
    "postgres.restart": _end_server("postgres", signal.SIGINT),
    "postgres.terminate": _postgres_terminate,
    "postgres.full": _postgres_full,
    "postgres.lock": _postgres_lock,
    "postgres.unknown": _postgres_unknown,
    "postgres.frozen": _harm_server("postgres", Proxy.freeze, 7),
    "postgres.stranded": _postgres_stranded,
}


async def inject(fault: str, installation: Installation, chance: Random) -> bool:
    """Inject a fault and undo it; return False where another fault prevented it. Raises Stuck."""
    try:
        await FAULTS[fault](installation, chance)
    except (NoEffect, RedisError, *POSTGRES_AWAY):
        task = asyncio.current_task()
        if task and task.cancelling():  # an error while undoing must not hide the cancellation
            raise asyncio.CancelledError from None
        return False
    return True


@asynccontextmanager
async def _connect_to_redis(installation: Installation) -> AsyncIterator[Redis]:
    """Connect past the proxy."""
    redis = Redis.from_url(installation.redis_url)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def _memory_limit(redis: Redis, policy: str, most_bytes: int) -> AsyncIterator[None]:
    await redis.config_set("maxmemory-policy", policy)
    await redis.config_set("maxmemory", most_bytes)
    try:
        yield
    finally:
        with suppress(RedisError, OSError):  # a restarted server has no limit
            await redis.config_set("maxmemory", 0)
            await redis.config_set("maxmemory-policy", "noeviction")


@asynccontextmanager
async def _connect_to_postgres(installation: Installation) -> AsyncIterator[asyncpg.Connection]:
    """Connect past the proxy."""
    connection = await asyncpg.connect(installation.database_url, timeout=5)
    try:
        yield connection
    finally:
        connection.terminate()


async def _terminate_sessions(postgres: asyncpg.Connection) -> None:
    await postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
    )


def _limit_file_size(pids: Sequence[int], most_bytes: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            soft = most_bytes if hard == resource.RLIM_INFINITY else hard
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def _link(link: Path, target: Path) -> None:
    """Point a link elsewhere in one step: there is always a link."""
    new = link.with_name("storage.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def _choose_targets(installation: Installation, chance: Random) -> list[str]:
    """Choose one of the targets, or all of them."""
    names = [*installation.targets]
    return chance.choice([names, *([name] for name in names)])


async def _harm(proxies: Sequence[Proxy], harm: Callable[[Proxy], None], seconds: float) -> None:
    for proxy in proxies:
        harm(proxy)
    try:
        await asyncio.sleep(seconds)
    finally:
        for proxy in proxies:
            await proxy.resume()


async def _trip(proxy: Proxy, needle: bytes, *, arrives: bool) -> None:
    proxy.trip(needle, arrives=arrives, cuts=False)
    try:
        await asyncio.wait_for(proxy.sprung.wait(), 5)
    finally:
        proxy.disarm()
