"""The worker loop: it replaces `arq.worker.Worker`.

It takes messages off the queue in batches, survives an outage of Redis, and goes on with jobs from the sweep meanwhile.
arq's own loop does neither: an outage of Redis ends it, and it asks Redis four times for each job.
"""

import asyncio
import contextvars
import inspect
import signal
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import arq.worker
import structlog
from arq.worker import Function
from redis.exceptions import RedisError

from service.errors import SettingsError
from service.queue.arq_queue import ArqQueue, QueueMessage, reason_of
from service.queue.dispatch import SYNC_TASK, TASK
from service.queue.suspects import Suspects
from service.resources import background
from service.telemetry.alive import watchdog

# Settings of arq's Worker that this one does not read; Postgres has the attempts, their number and their leases.
UNUSED_SETTINGS = frozenset(
    {
        "queue_name",
        "job_timeout",
        "max_tries",
        "retry_jobs",
        "keep_result",
        "keep_result_forever",
        "log_results",
        "allow_abort_jobs",
        "max_burst_jobs",
        "queue_read_limit",
        "expires_extra_ms",
        "job_serializer",
        "job_deserializer",
        "on_job_start",
        "on_job_end",
        "after_job_end",
    }
)
# The same for one function: parameters of `arq.func` and the attributes that they set.
_UNUSED_OF_FUNCTIONS = {
    "timeout": "timeout_s",
    "max_tries": "max_tries",
    "keep_result": "keep_result_s",
    "keep_result_forever": "keep_result_forever",
}
REDIS_PAUSE_SECONDS = 1.0
# Attempts hand their jobs back within five seconds; the platform kills slower ones.
CLOSE_SECONDS = 6.0
GOODBYE_SECONDS = 1.0

log = structlog.get_logger()


class Worker(arq.worker.Worker):
    """Runs messages from the queue, and jobs from the sweep, each in a task; `on_startup` needs no Redis."""

    # arq passes the settings that this signature names, and drops all others.
    __signature__ = inspect.signature(arq.worker.Worker)

    def __init__(self, functions: Iterable[Any] = (), **options: Any) -> None:  # noqa: ANN401 as arq's
        """Raise SettingsError for a setting of arq that has no effect here."""
        _refuse_unused(functions, options)
        super().__init__(list(functions), **options)

    async def main(self) -> None:
        """Work until cancelled; in burst mode, until nothing is left."""
        self._awake = asyncio.Event()
        self._from_sweep: set[str] = set()
        # Syncs have a limit of their own: a slow target takes no job's place.
        self._syncs: set[str] = set()
        self._suspects = Suspects(self.max_jobs)
        self.ctx["worker"] = self
        if self._handle_signals:  # it is a process of its own
            self.ctx["watchdog"] = asyncio.create_task(watchdog(self.ctx["settings"].lease_seconds))
        assert self.on_startup  # noqa: S101 the settings of our worker have it
        await self.on_startup(self.ctx)  # arq would wait for Redis first
        queue = ArqQueue(self.pool)
        async with background(lambda: queue.listen(self._awake.set)):
            while True:
                try:
                    return await self._run_messages(queue)
                except (RedisError, OSError) as exc:
                    if _is_cancelled():  # while it cleans up, redis-py raises in place of the cancellation
                        raise asyncio.CancelledError from exc
                    log.warning("redis_away", error=reason_of(exc))
                    await asyncio.sleep(REDIS_PAUSE_SECONDS)

    async def close(self) -> None:
        """End the jobs, then everything else, as arq does; but limit every wait."""
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
        if watchdog := self.ctx.get("watchdog"):  # else it would kill a process that only ends slowly
            watchdog.cancel()
            await asyncio.wait({watchdog})

    @property
    def free_slots(self) -> int:
        """The number of further jobs that the sweep may start here: at most half of those from the queue, in addition to them."""
        most = max(1, self.max_jobs // 2) if self.allow_pick_jobs else 0
        return max(0, most - len(self._from_sweep))

    def room_for(self, abandoned: int) -> int:
        """Return how many more suspects with this number of abandoned attempts in a row may start here."""
        return self._suspects.room_for(abandoned) if self.allow_pick_jobs else 0

    def start_attempt(self, job_id: str, email_id: int, attempt_number: int, abandoned: int = 0) -> None:
        """Start an attempt that is due by Postgres, unless it runs here already."""
        if job_id not in self.tasks:
            if abandoned:
                self._suspects.add(job_id, abandoned)
            else:
                self._from_sweep.add(job_id)
            self._start(job_id, self.functions[TASK].coroutine(self.ctx, email_id, attempt_number))

    async def _run_messages(self, queue: ArqQueue) -> None:
        """Start as many messages as there are free slots; sleep until a message arrives or a slot is free."""
        while True:
            self._awake.clear()
            extra = len(self._from_sweep) + len(self._syncs) + len(self._suspects)
            free = self.max_jobs - len(self.tasks) + extra if self.allow_pick_jobs else 0
            messages = await queue.dequeue(free) if free > 0 else []
            for message in messages:
                if message.job_id not in self.tasks:
                    if message.function == SYNC_TASK:
                        self._syncs.add(message.job_id)
                    self._start(message.job_id, self._run(message))
            await self.heart_beat()
            if self.burst and not messages and not self.tasks:
                return
            if len(messages) < free or not free:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.poll_delay_s):
                        await self._awake.wait()

    async def _run(self, message: QueueMessage) -> None:
        if message.function in self.functions:
            function = self.functions[message.function]
            await function.coroutine(self.ctx, *message.arguments, **message.keywords)
        else:
            log.warning("unknown_task", job=message.job_id)

    def _start(self, job_id: str, attempt: Coroutine[Any, Any, Any]) -> None:
        context = contextvars.copy_context()  # the attempt binds its names for the log in it
        task = self.tasks[job_id] = asyncio.create_task(attempt, context=context)
        task.add_done_callback(partial(self._end, job_id), context=context)

    def _end(self, job_id: str, task: asyncio.Task[Any]) -> None:
        del self.tasks[job_id]
        self._from_sweep.discard(job_id)
        self._syncs.discard(job_id)
        self._suspects.discard(job_id)
        self._awake.set()
        if task.cancelled():
            self.jobs_retried += 1
        elif exc := task.exception():  # its lease expires, and the sweep takes the job back
            self.jobs_failed += 1
            log.error("attempt_broke", job=job_id, exc_info=exc)
        else:
            self.jobs_complete += 1


def _refuse_unused(functions: Iterable[Any], options: dict[str, Any]) -> None:
    unused = sorted(UNUSED_SETTINGS & options.keys())
    for function in functions:
        if isinstance(function, Function):
            unused += [
                f"{name} of {function.name}"
                for name, attribute in _UNUSED_OF_FUNCTIONS.items()
                if getattr(function, attribute) is not None
            ]
    if unused:
        raise SettingsError(f"These settings of arq have no effect here, remove them: {', '.join(unused)}")


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
