"""Dispatch: put jobs on the arq queue, then mark them `queued`; safe to repeat.

A message may be lost on its way to a worker (a dead connection, an emptied Redis): the sweep dispatches its job again.
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
from service.jobs.waiting import Job, Sync
from service.postgres.engine import run
from service.queue.arq_queue import ArqQueue, QueueMessage, reason_of, try_write
from service.telemetry.metrics import DISPATCHES

TASK = "process"
SYNC_TASK = "sync"
# A message is due once its score has passed by the clock of Redis: no skew between hosts may delay it.
CLOCK_SKEW_MS = 3600 * 1000
# First attempts go before all others, for an outage may have left thousands of those.
HEAD_START_MS = 24 * 3600 * 1000
MAX_BATCH = 500
SECONDS = 2.0
# After this time most jobs are claimed already, and need no UPDATE to mark them.
MARK_SECONDS = 0.2
PROBE_SECONDS = 1.0

log = structlog.get_logger()


def job_id(job: Job | Sync) -> str:
    """Name an attempt, so that one process never runs it twice at once."""
    if isinstance(job, Sync):
        return f"sync:{job.email_id}:{job.version}"
    return f"email:{job.email_id}:{job.attempt_number}"


class Dispatcher:
    """Dispatches in the background and in batches, so that no caller waits for Redis."""

    def __init__(self, engine: AsyncEngine, redis: ArqRedis) -> None:
        self._engine = engine
        self._redis = redis
        self._queue = ArqQueue(redis)
        self._waiting: asyncio.Queue[Job | Sync] = asyncio.Queue(maxsize=10_000)
        self._enqueued: list[Job] = []
        self.reachable = True  # whether the last command to Redis succeeded

    def dispatch(self, job: Job | Sync) -> None:
        """Dispatch soon; where too many wait already, leave the job to the sweep."""
        try:
            self._waiting.put_nowait(job)
        except asyncio.QueueFull:
            DISPATCHES.labels("overflow").inc()

    async def enqueue_for_ever(self) -> None:
        """Enqueue jobs as they arrive, until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and len(batch) < MAX_BATCH:
                batch.append(self._waiting.get_nowait())
            await self.enqueue(batch)
            for _ in batch:
                self._waiting.task_done()

    async def mark_for_ever(self) -> None:
        """Mark enqueued jobs at short intervals, until cancelled."""
        while True:
            await asyncio.sleep(MARK_SECONDS)
            await self.mark()

    async def probe_for_ever(self) -> None:
        """While Redis is unreachable, try a write at intervals; runs until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            if not self.reachable:
                with suppress(RedisError, OSError, TimeoutError):
                    async with asyncio.timeout(SECONDS):
                        await try_write(self._redis)
                    self.reachable = True

    async def drain(self) -> None:
        """Enqueue and mark waiting jobs before the process ends; the sweep dispatches the rest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                await self._waiting.join()
                await self.mark()

    async def enqueue(self, batch: Sequence[Job | Sync]) -> None:
        """Enqueue at once; where Redis fails, make the jobs due now, so that workers find them in Postgres."""
        jobs = [job for job in batch if isinstance(job, Job)]  # syncs are due in any case
        try:
            async with asyncio.timeout(SECONDS):
                await self._queue.enqueue(map(_message, batch))
        except (RedisError, OSError, TimeoutError) as exc:
            self.reachable = False
            if jobs:
                await self._write("failed", jobs, lambda conn: waiting.put_back(conn, jobs))
            log.warning("dispatch_failed", jobs=len(batch), error=reason_of(exc))
        else:
            self.reachable = True
            self._enqueued += jobs

    async def mark(self) -> None:
        """Mark enqueued jobs as queued, unless a worker has claimed them."""
        jobs, self._enqueued = self._enqueued, []
        if jobs:
            email_ids = [job.email_id for job in jobs]
            await self._write("rung", jobs, lambda conn: waiting.mark_queued(conn, email_ids))

    async def _write(
        self, outcome: str, jobs: Sequence[Job], statement: Callable[[AsyncConnection], Awaitable[None]]
    ) -> None:
        """Run a statement and count the outcome; the sweep makes up for a statement that fails."""
        try:
            await run(self._engine, SECONDS, statement)
        except HoldfastError as exc:
            outcome = "failed"
            log.warning("dispatch_not_marked", jobs=len(jobs), code=exc.code)
        DISPATCHES.labels(outcome).inc(len(jobs))


def _message(job: Job | Sync) -> QueueMessage:
    due = int(time.time() * 1000) - CLOCK_SKEW_MS
    if isinstance(job, Sync):
        return QueueMessage(job_id(job), SYNC_TASK, (job.email_id,), score=due)
    head_start = HEAD_START_MS if job.attempt_number == 1 else 0
    return QueueMessage(job_id(job), TASK, (job.email_id, job.attempt_number), score=due - head_start)
