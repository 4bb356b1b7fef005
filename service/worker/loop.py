"""arq's worker, but one that answers the bell, outlives an outage of Redis, and works on without it meanwhile."""

import asyncio
import contextvars
import signal
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import arq.worker
import structlog
from redis.exceptions import RedisError

from service.queue.arq_queue import Bell, Ring, reason_of
from service.queue.dispatch import SYNC_TASK, TASK
from service.queue.suspects import Suspects
from service.resources import background
from service.telemetry.alive import watchdog

REDIS_PAUSE_SECONDS = 1.0
# Jobs are handed back within five; what then still runs is not worth the platform's patience.
CLOSE_SECONDS = 6.0
GOODBYE_SECONDS = 1.0

log = structlog.get_logger()


class Worker(arq.worker.Worker):
    """Runs what is rung, and what the sweep gives it, each in a task; `on_startup` needs no Redis."""

    async def main(self) -> None:
        """Work until cancelled; in burst mode, until nothing is left."""
        self._awake = asyncio.Event()
        self._direct: set[str] = set()
        # Syncs, whose number has a limit of its own: a slow target takes no job's place.
        self._beside: set[str] = set()
        self._suspects = Suspects(self.max_jobs)
        self.ctx["hands"] = self
        if self._handle_signals:  # it is a process of its own
            self.ctx["watchdog"] = asyncio.create_task(watchdog(self.ctx["settings"].lease_seconds))
        assert self.on_startup  # noqa: S101 the settings of our worker have it
        await self.on_startup(self.ctx)  # arq would have Redis answer first
        bell = Bell(self.pool)
        async with background(lambda: bell.listen(self._awake.set)):
            while True:
                try:
                    return await self._answer(bell)
                except (RedisError, OSError) as exc:
                    if _is_told_to_end():  # redis-py, tidying up, raises in the place of the cancellation
                        raise asyncio.CancelledError from exc
                    log.warning("redis_away", error=reason_of(exc))
                    await asyncio.sleep(REDIS_PAUSE_SECONDS)

    async def close(self) -> None:
        """End the jobs, then all else, as arq does; but wait for nobody for long."""
        if not self._handle_signals:
            self.handle_sig(signal.SIGUSR1)
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=CLOSE_SECONDS)
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self.pool.delete(self.health_check_key)
        except (RedisError, OSError, TimeoutError) as exc:
            log.warning("redis_away", error=reason_of(exc))
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self.pool.aclose(close_connection_pool=True)
        if watchdog := self.ctx.get("watchdog"):  # or it would end, with an error, what only ends slowly
            watchdog.cancel()
            await asyncio.wait({watchdog})

    @property
    def free(self) -> int:
        """How many more jobs the sweep may start here: beside those that were rung, and half as many at most."""
        most = max(1, self.max_jobs // 2) if self.allow_pick_jobs else 0
        return max(0, most - len(self._direct))

    def room_beside(self, abandoned: int) -> int:
        """How many more jobs may start here that were abandoned so often in a row."""
        return self._suspects.room_beside(abandoned) if self.allow_pick_jobs else 0

    def take(self, job_id: str, email_id: int, attempt_number: int, abandoned: int = 0) -> None:
        """Run an attempt that Postgres says is due, unless it runs here already."""
        if job_id not in self.tasks:
            if abandoned:
                self._suspects.add(job_id, abandoned)
            else:
                self._direct.add(job_id)
            self._begin(job_id, self.functions[TASK].coroutine(self.ctx, email_id, attempt_number))

    async def _answer(self, bell: Bell) -> None:
        """Start what is rung as far as hands are free, and sleep until there is more of either."""
        while True:
            self._awake.clear()
            more = len(self._direct) + len(self._beside) + len(self._suspects)
            free = self.max_jobs - len(self.tasks) + more if self.allow_pick_jobs else 0
            rings = await bell.answer(free) if free > 0 else []
            for ring in rings:
                if ring.job_id not in self.tasks:
                    if ring.function == SYNC_TASK:
                        self._beside.add(ring.job_id)
                    self._begin(ring.job_id, self._run(ring))
            await self.heart_beat()
            if self.burst and not rings and not self.tasks:
                return
            if len(rings) < free or not free:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.poll_delay_s):
                        await self._awake.wait()

    async def _run(self, ring: Ring) -> None:
        if ring.function in self.functions:
            function = self.functions[ring.function]
            await function.coroutine(self.ctx, *ring.arguments, **ring.keywords)
        else:
            log.warning("ring_for_nobody", job=ring.job_id)

    def _begin(self, job_id: str, attempt: Coroutine[Any, Any, Any]) -> None:
        context = contextvars.copy_context()  # the attempt names itself in it, for the log
        task = self.tasks[job_id] = asyncio.create_task(attempt, context=context)
        task.add_done_callback(partial(self._end, job_id), context=context)

    def _end(self, job_id: str, task: asyncio.Task[Any]) -> None:
        del self.tasks[job_id]
        self._direct.discard(job_id)
        self._beside.discard(job_id)
        self._suspects.discard(job_id)
        self._awake.set()
        if task.cancelled():
            self.jobs_retried += 1
        elif exc := task.exception():  # its lease runs out, and the job is rescued
            self.jobs_failed += 1
            log.error("attempt_broke", job=job_id, exc_info=exc)
        else:
            self.jobs_complete += 1


def _is_told_to_end() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
