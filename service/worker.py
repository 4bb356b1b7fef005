"""The door of the worker: `arq service.worker.WorkerSettings`."""

import asyncio
import json
import signal
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import arq.worker
import structlog
import uvloop
from arq import func
from arq.connections import RedisSettings
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

from service import logs
from service.config import Settings, SettingsError
from service.dispatch import EXPIRES_MS, TASK, create_redis, serialize
from service.process.attempt import process, renew_leases
from service.recovery import sweep_for_ever
from service.resources import Resources, background, open_resources, read_settings_for_resources
from service.watchdog import watch

# How long a dead worker may look alive to `arq --check`: arq keeps the key a second longer.
HEALTH_CHECK_SECONDS = 5
REDIS_PAUSE_SECONDS = 1.0
# Jobs that are handed back also want to tell Redis; that is not worth the platform's patience.
CLOSE_SECONDS = 6.0
GOODBYE_SECONDS = 1.0

DIRECT = "direct:"
POLL_SECONDS = 1.0
SLICE = 50

log = structlog.get_logger()


class Worker(arq.worker.Worker):
    """arq's worker, but one that outlives an outage of Redis, and that works on without it meanwhile."""

    async def main(self) -> None:
        self.ctx["hands"] = self
        if self._handle_signals:  # it is a process of its own
            self.ctx["watchdog"] = asyncio.create_task(watch(self.ctx["settings"].lease_seconds))
        await start(self.ctx)  # arq would have Redis answer first
        while True:
            try:
                return await super().main()
            except (RedisError, OSError) as exc:
                if _is_told_to_end():  # redis-py, tidying up, raises in the place of the cancellation
                    raise asyncio.CancelledError from exc
                log.warning("redis_away", error=type(exc).__name__)
                await asyncio.sleep(REDIS_PAUSE_SECONDS)
                await self._count_slots_anew()

    async def close(self) -> None:
        """End the jobs (arq would leave them at the first that cannot reach Redis), then all else, as arq does."""
        if not self._handle_signals:
            self.handle_sig(signal.SIGUSR1)
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=CLOSE_SECONDS)
        self.tasks = {}
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self.pool.delete(self.health_check_key)
        except (RedisError, OSError, TimeoutError) as exc:
            log.warning("redis_away", error=type(exc).__name__)
        await stop(self.ctx)
        await self.pool.aclose(close_connection_pool=True)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start what is not running here already, and look at the queue anew after a moment.

        arq would go through all that it once read: past what came meanwhile, and past its health check.
        """
        fresh = [job_id for job_id in job_ids if job_id.decode() not in self.tasks]
        deadline = time.monotonic() + POLL_SECONDS
        while fresh and self.job_counter < self.max_jobs and time.monotonic() < deadline:
            await super().start_jobs(fresh[:SLICE])
            fresh = fresh[SLICE:]

    @property
    def free(self) -> int:
        """How many more jobs the sweep may start here: beside those that arq starts, and half as many at most."""
        most = max(1, self.max_jobs // 2) if self.allow_pick_jobs else 0
        return max(0, most - len(self._direct()))

    def take(self, email_id: int, attempt_number: int) -> None:
        """Run an attempt that Postgres says is due; arq waits for it at shutdown as for its own."""
        name = f"{DIRECT}{email_id}:{attempt_number}"
        if name not in self.tasks:
            self.tasks[name] = asyncio.create_task(run_directly(self.ctx["res"], email_id, attempt_number))

    def _direct(self) -> list[asyncio.Task[Any]]:
        return [task for name, task in self.tasks.items() if name.startswith(DIRECT) and not task.done()]

    async def _count_slots_anew(self) -> None:
        """Free the slot that an error in the middle of arq's `start_jobs` left taken for nobody."""
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                if not task.cancelled() and (error := task.exception()):
                    log.warning("job_not_finished_in_redis", job=job_id, error=type(error).__name__)
        self.job_counter = len(self.tasks) - len(self._direct())
        self.sem = asyncio.BoundedSemaphore(self.max_jobs + 1)
        for _ in range(self.job_counter):
            await self.sem.acquire()


def _is_told_to_end() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def run_attempt(ctx: dict[str, Any], email_id: int, attempt_number: int) -> None:
    await process(ctx["res"], email_id, attempt_number)


async def run_directly(res: Resources, email_id: int, attempt_number: int) -> None:
    try:
        await process(res, email_id, attempt_number)
    except Exception:  # arq would end with it; the lease runs out, and the job is rescued
        log.exception("attempt_broke", email=email_id, attempt=attempt_number)


async def start(ctx: dict[str, Any]) -> None:
    """Open what the steps need, and begin to sweep and to renew leases."""
    if "res" in ctx:  # arq starts anew after an outage of Redis
        return
    settings: Settings = ctx["settings"]
    logs.configure(settings.log_format, settings.log_level)
    stack = ctx["stack"] = AsyncExitStack()
    res = await stack.enter_async_context(open_resources(settings))
    await stack.enter_async_context(background(lambda: sweep_for_ever(res, ctx["hands"])))
    await stack.enter_async_context(background(lambda: renew_leases(res)))
    ctx["res"] = res


async def stop(ctx: dict[str, Any]) -> None:
    if "stack" in ctx:
        await ctx["stack"].aclose()


def worker_settings(settings: Settings) -> type:
    """Make the class that arq reads; each name is a parameter of `arq.worker.Worker`."""
    arq.worker.Worker = Worker  # type: ignore[misc] # what the `arq` command makes its worker with

    class WorkerSettings:
        functions = (func(run_attempt, name=TASK),)
        on_startup = start
        on_shutdown = stop
        ctx = {"settings": settings}  # noqa: RUF012 arq wants a dict
        redis_pool = create_redis(settings.redis_dsn, pool_size=settings.redis_pool_size)
        redis_settings = _redis_settings(settings.redis_dsn)  # `arq --check` reads this one
        job_serializer = serialize
        job_deserializer = json.loads
        expires_extra_ms = EXPIRES_MS
        keep_result = 0
        # Attempts are counted in Postgres, and end by a time-out of our own.
        max_tries = 1_000_000
        job_timeout = settings.attempt_seconds + 120
        job_completion_wait = int(settings.shutdown_seconds)
        max_jobs = settings.jobs_per_process
        queue_read_limit = 5000
        poll_delay = 0.05
        health_check_interval = HEALTH_CHECK_SECONDS
        # A key for each worker: a clean stop deletes it, and a shared one would hide a dead worker.
        health_check_key = f"holdfast:health:{settings.worker_name}"

    return WorkerSettings


def __getattr__(name: str) -> type:
    """Read the environment when arq asks for `WorkerSettings`, not when this module is imported."""
    if name != "WorkerSettings":
        raise AttributeError(name)
    try:
        settings = read_settings_for_resources()
    except SettingsError as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(2)
    asyncio.set_event_loop(uvloop.new_event_loop())  # the loop that arq's Worker takes
    return worker_settings(settings)


def _redis_settings(url: str) -> RedisSettings:
    parts = parse_url(url)
    return RedisSettings(
        host=parts.get("host", "localhost"),
        port=parts.get("port", 6379),
        unix_socket_path=parts.get("path"),
        database=parts.get("db", 0),
        username=parts.get("username"),
        password=parts.get("password"),
        ssl=url.startswith("rediss"),
        ssl_cert_reqs=str(parts.get("ssl_cert_reqs", "required")),
        ssl_check_hostname=bool(parts.get("ssl_check_hostname", False)),
        conn_retries=0,
    )
