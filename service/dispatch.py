"""Ring jobs on the arq queue, then mark them `queued`; safe to repeat, and never proof of anything.

What is lost between here and a worker (a dead connection, an emptied Redis) the sweep rings again.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from arq import ArqRedis
from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix
from arq.jobs import serialize_job
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.database import run
from service.errors import HoldfastError
from service.jobs import waiting
from service.jobs.waiting import Job
from service.metrics import DISPATCHES

TASK = "process"
EXPIRES_MS = 7 * 24 * 3600 * 1000
# arq runs a job once its score is past by the *worker's* clock: no skew between hosts may delay it.
CLOCK_SKEW_MS = 3600 * 1000
# First attempts go before all others, of which an outage may have left thousands.
HEAD_START_MS = 24 * 3600 * 1000
MAX_BATCH = 500
SECONDS = 2.0
LOOK_OUT_SECONDS = 1.0
LOOK_OUT_KEY = "holdfast:look-out"

log = structlog.get_logger()


def create_redis(url: str, *, pool_size: int) -> ArqRedis:
    """Make a client that neither hangs nor gives up at once; nothing connects yet."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=pool_size,
        timeout=5,
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), retries=3),
        retry_on_error=[ConnectionError, TimeoutError],
        **({} if url.startswith("unix") else {"socket_keepalive": True}),
    )
    return ArqRedis(pool, job_serializer=serialize, job_deserializer=json.loads, expires_extra_ms=EXPIRES_MS)


def serialize(value: dict[str, Any]) -> bytes:
    """Write a job as JSON: arq's default, pickle, lets whoever writes to Redis run code in a worker."""
    return json.dumps(value, default=repr).encode()


class Dispatcher:
    """Rings in the background, so that nobody waits for Redis, and in batches."""

    def __init__(self, engine: AsyncEngine, redis: ArqRedis) -> None:
        self._engine = engine
        self._redis = redis
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(maxsize=10_000)
        self.reachable = True  # as far as the last ring tells of Redis

    def ring(self, job: Job) -> None:
        """Ring soon; where too many wait already, leave it to the sweep."""
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            DISPATCHES.labels("overflow").inc()

    async def run(self) -> None:
        """Ring what comes, until cancelled."""
        while True:
            batch = [await self._jobs.get()]
            while not self._jobs.empty() and len(batch) < MAX_BATCH:
                batch.append(self._jobs.get_nowait())
            await self.ring_now(batch)
            for _ in batch:
                self._jobs.task_done()

    async def drain(self) -> None:
        """Let what waits be rung before the process ends; the sweep has the rest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                await self._jobs.join()

    async def ring_now(self, jobs: Sequence[Job]) -> bool:
        """Ring, and mark as queued what was only received; False if Redis or Postgres did not take it.

        What Redis did not take is due at once, for the workers to find it.
        """
        try:
            async with asyncio.timeout(SECONDS):
                await _enqueue(self._redis, jobs)
        except (RedisError, OSError, TimeoutError) as exc:
            self.reachable = False
            await self._note(lambda conn: waiting.put_back(conn, jobs))
            return _failed(jobs, exc)
        self.reachable = True
        trouble = await self._note(lambda conn: waiting.mark_queued(conn, [job.email_id for job in jobs]))
        if trouble:
            return _failed(jobs, trouble)
        DISPATCHES.labels("rung").inc(len(jobs))
        return True

    async def look_out(self) -> None:
        """While Redis cannot be rung, ask it now and then whether it is back; runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_OUT_SECONDS)
            if not self.reachable:
                with suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(SECONDS):
                        await self._redis.set(LOOK_OUT_KEY, b"1", ex=60)  # a full one answers a PING, too
                    self.reachable = True

    async def _note(self, statement: Callable[[AsyncConnection], Awaitable[None]]) -> HoldfastError | None:
        try:
            await run(self._engine, SECONDS, statement)
        except HoldfastError as exc:
            return exc
        return None


def _failed(jobs: Sequence[Job], exc: Exception) -> bool:
    DISPATCHES.labels("failed").inc(len(jobs))
    log.warning("dispatch_failed", jobs=len(jobs), error=type(exc).__name__)
    return False


async def _enqueue(redis: ArqRedis, jobs: Sequence[Job]) -> None:
    """Write what `ArqRedis.enqueue_job` writes, for a whole batch in one round trip.

    It leaves alone what is there: a job that is queued keeps its place, and one of which an eviction
    left half is made whole.
    """
    now = int(time.time() * 1000)
    async with redis.pipeline(transaction=True) as pipe:
        for job in jobs:
            job_id = f"email:{job.email_id}:{job.attempt_number}"
            definition = serialize_job(
                TASK, (job.email_id, job.attempt_number), {}, None, now, serializer=serialize
            )
            # arq lets nobody run what a killed worker had picked up for as long as a job may take; this
            # one is not claimed, Postgres says, and if somebody is about to, the claim decides.
            pipe.delete(in_progress_key_prefix + job_id)
            pipe.set(job_key_prefix + job_id, definition, px=EXPIRES_MS, nx=True)
            score = now - CLOCK_SKEW_MS - (HEAD_START_MS if job.attempt_number == 1 else 0)
            pipe.zadd(default_queue_name, {job_id: score}, nx=True)
        await pipe.execute()
