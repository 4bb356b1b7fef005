"""Ring jobs on the arq queue, then mark them `queued`; safe to repeat, and never proof of anything.

What is lost between here and a worker (a dead connection, an emptied Redis) the sweep rings again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from arq import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.errors import HoldfastError
from service.jobs import waiting
from service.jobs.sync_retries import Sync
from service.jobs.waiting import Job
from service.postgres.engine import run
from service.queue.arq_queue import Bell, Ring, reason_of
from service.telemetry.metrics import DISPATCHES

TASK = "process"
SYNC_TASK = "sync"
# A ring counts once its score is past by the clock of Redis: no skew between hosts may delay it.
CLOCK_SKEW_MS = 3600 * 1000
# First attempts go before all others, of which an outage may have left thousands.
HEAD_START_MS = 24 * 3600 * 1000
MAX_BATCH = 500
SECONDS = 2.0
# By then a worker has most of what was rung, and a mark less to write.
MARK_SECONDS = 0.2
LOOK_OUT_SECONDS = 1.0
LOOK_OUT_KEY = "holdfast:look-out"

log = structlog.get_logger()


def job_id(job: Job | Sync) -> str:
    """Name an attempt, the same wherever it is started from: one process never runs it twice at once."""
    if isinstance(job, Sync):
        return f"sync:{job.email_id}:{job.version}"
    return f"email:{job.email_id}:{job.attempt_number}"


class Dispatcher:
    """Rings in the background, so that nobody waits for Redis, and in batches."""

    def __init__(self, engine: AsyncEngine, redis: ArqRedis) -> None:
        self._engine = engine
        self._redis = redis
        self._bell = Bell(redis)
        self._jobs: asyncio.Queue[Job | Sync] = asyncio.Queue(maxsize=10_000)
        self._rung: list[Job] = []
        self.reachable = True  # as far as the last ring tells of Redis

    def ring(self, job: Job | Sync) -> None:
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

    async def mark(self) -> None:
        """Mark now and then what was rung, until cancelled."""
        while True:
            await asyncio.sleep(MARK_SECONDS)
            await self.mark_now()

    async def drain(self) -> None:
        """Let what waits be rung and marked before the process ends; the sweep has the rest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                await self._jobs.join()
                await self.mark_now()

    async def ring_now(self, rung: Sequence[Job | Sync]) -> None:
        """Ring; what Redis did not take is due at once, for the workers to find it, as a sync is in any case."""
        jobs = [job for job in rung if isinstance(job, Job)]
        try:
            async with asyncio.timeout(SECONDS):
                await self._bell.ring(map(_ring, rung))
        except (RedisError, OSError, TimeoutError) as exc:
            self.reachable = False
            if jobs:
                await self._note("failed", jobs, lambda conn: waiting.put_back(conn, jobs))
            log.warning("dispatch_failed", jobs=len(rung), error=reason_of(exc))
        else:
            self.reachable = True
            self._rung += jobs

    async def mark_now(self) -> None:
        """Mark as queued what was rung, and no worker has begun with yet."""
        rung, self._rung = self._rung, []
        if rung:
            await self._note(
                "rung", rung, lambda conn: waiting.mark_queued(conn, [job.email_id for job in rung])
            )

    async def look_out(self) -> None:
        """While Redis cannot be rung, ask it now and then whether it is back; runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_OUT_SECONDS)
            if not self.reachable:
                with suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(SECONDS):
                        await self._redis.set(LOOK_OUT_KEY, b"1", ex=60)  # a full one answers a PING, too
                    self.reachable = True

    async def _note(
        self, outcome: str, jobs: Sequence[Job], statement: Callable[[AsyncConnection], Awaitable[None]]
    ) -> None:
        """Tell Postgres; what it does not hear, the sweep makes up for."""
        try:
            await run(self._engine, SECONDS, statement)
        except HoldfastError as exc:
            outcome = "failed"
            log.warning("dispatch_not_noted", jobs=len(jobs), code=exc.code)
        DISPATCHES.labels(outcome).inc(len(jobs))


def _ring(job: Job | Sync) -> Ring:
    if isinstance(job, Sync):
        return Ring(job_id(job), SYNC_TASK, (job.email_id,), score=_score())
    head_start = HEAD_START_MS if job.attempt_number == 1 else 0
    return Ring(job_id(job), TASK, (job.email_id, job.attempt_number), score=_score() - head_start)


def _score() -> int:
    return int(time.time() * 1000) - CLOCK_SKEW_MS
