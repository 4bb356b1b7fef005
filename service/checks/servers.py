"""Check Redis or Valkey, the storage, and the clocks of the servers.

Signatures, certificates and S3 go by the clock of this host, all recorded times by the clock of Postgres.
"""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from service.checks.probe import SECONDS, Check
from service.postgres.engine import connect, within
from service.queue.arq_queue import try_write
from service.resources import Resources
from service.storage import objects

OLDEST_REDIS = 5  # older ones allow no script that reads the time and then writes
ODD_SECONDS = 5
WRONG_SECONDS = 60
_FULL = 0.9
# Losing a queue message costs time only: the sweep enqueues its job again.
_POLICY = "set maxmemory-policy to noeviction: an evicted queue message delays a job by up to a minute"


async def check_redis(res: Resources) -> Check:
    info: dict[str, Any] = await res.redis.info()
    version = str(info.get("valkey_version") or info["redis_version"])
    tls = "" if res.settings.redis_dsn.startswith("rediss:") else ", without TLS"
    if tls == "" and not res.settings.redis_verify_tls:
        tls = ", with a certificate that is not checked"
    found = f"{info.get('server_name', 'redis')} {version}{tls}"
    await try_write(res.redis)
    is_good = int(version.partition(".")[0]) >= OLDEST_REDIS
    return Check("redis", is_good, found, "" if is_good else f"use version {OLDEST_REDIS} or newer")


async def check_eviction(res: Resources) -> Check:
    memory: dict[str, Any] = await res.redis.info("memory")
    policy, used, most = (
        str(memory["maxmemory_policy"]),
        int(memory["used_memory"]),
        int(memory["maxmemory"]),
    )
    found = f"maxmemory-policy is {policy}"
    if policy != "noeviction":
        return Check("eviction", None, found, _POLICY)
    if most and used > most * _FULL:
        found = f"{used * 100 // most} % of its memory is used"
        return Check("eviction", None, found, "give Redis more memory: while it is full, jobs begin late")
    return Check("eviction", True, found)


async def check_storage(res: Resources) -> Check:
    """Write an object, read it, delete it."""
    kind = (res.settings.storage_url or "").partition(":")[0]
    where = "file, which web and workers must share" if kind == "file" else kind
    if await objects.probe(res.storage):
        return Check("storage", True, f"writes, reads and deletes ({where})")
    advice = (
        "allow deleting (in S3, s3:DeleteObject): the objects of this check, holdfast-check-*, stay there"
    )
    return Check("storage", None, f"writes and reads, but does not delete ({where})", advice)


async def check_clock_of_postgres(res: Resources, now: Callable[[], float] = time.time) -> Check:
    async def ask() -> float:
        async with connect(res.engine) as conn:
            before = now()
            theirs = await conn.scalar(text("SELECT extract(epoch FROM clock_timestamp())::float8"))
            return float(theirs or 0) - (before + now()) / 2

    return _judge_clock("Postgres", await within(SECONDS, ask()))


async def check_clock_of_redis(res: Resources, now: Callable[[], float] = time.time) -> Check:
    await res.redis.ping()  # connecting is no part of the round trip
    before = now()
    seconds, microseconds = await res.redis.time()
    return _judge_clock("Redis", seconds + microseconds / 1e6 - (before + now()) / 2)


def _judge_clock(whose: str, ahead: float) -> Check:
    found = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this host's"
    if abs(ahead) <= ODD_SECONDS:
        return Check(f"clock of {whose}", True, f"{abs(ahead):.1f} s from this host's")
    advice = f"let an NTP service set the clocks of this host and of {whose}"
    return Check(f"clock of {whose}", None if abs(ahead) <= WRONG_SECONDS else False, found, advice)
