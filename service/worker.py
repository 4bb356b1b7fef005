"""The door of the worker: `arq service.worker.WorkerSettings`."""

import asyncio
import contextvars
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import arq.worker
import structlog
import uvloop
from arq import cron, func
from arq.connections import RedisSettings
from arq.cron import CronJob
from prometheus_client import start_http_server
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

from service import logs
from service.alerts.watch import alerting
from service.bell import Bell, Ring, create_redis
from service.config.settings import Settings
from service.dispatch import SYNC_TASK, TASK
from service.errors import SettingsError
from service.heartbeat import beating
from service.process.attempt import process, renew_leases
from service.reconcile.hourly import minute, reconcile_when_told
from service.reconcile.verify import verify_for_ever
from service.recovery.bulk import step_for_ever
from service.recovery.sweep import sweep_for_ever
from service.resources import background, open_resources, read_settings_for_resources
from service.sync.attempt import sync
from service.sync.sweep import drop_for_ever, sync_for_ever
from service.telemetry.sentry import report
from service.watchdog import watch

# How long a dead worker may look alive to `arq --check`: arq keeps the key a second longer.
HEALTH_CHECK_SECONDS = 5
REDIS_PAUSE_SECONDS = 1.0
# Jobs are handed back within five; what then still runs is not worth the platform's patience.
CLOSE_SECONDS = 6.0
GOODBYE_SECONDS = 1.0

# Who is not woken, looks; arq's own `enqueue_job` wakes nobody.
POLL_SECONDS = 1.0
RECONCILE_TASK = "reconcile"

log = structlog.get_logger()


class Worker(arq.worker.Worker):
    """arq's worker, but one that answers the bell, outlives an outage of Redis, and works on without it meanwhile."""

    async def main(self) -> None:
        """Work until cancelled; in burst mode, until nothing is left."""
        self._awake = asyncio.Event()
        self._direct: set[str] = set()
        self._beside: set[str] = (
            set()
        )  # syncs, whose number has a limit of its own: a slow target takes no job's place
        self.ctx["hands"] = self
        if self._handle_signals:  # it is a process of its own
            self.ctx["watchdog"] = asyncio.create_task(watch(self.ctx["settings"].lease_seconds))
        await start(self.ctx)  # arq would have Redis answer first
        bell = Bell(self.pool)
        async with background(lambda: bell.listen(self._awake.set)):
            while True:
                try:
                    return await self._answer(bell)
                except (RedisError, OSError) as exc:
                    if _is_told_to_end():  # redis-py, tidying up, raises in the place of the cancellation
                        raise asyncio.CancelledError from exc
                    log.warning("redis_away", error=type(exc).__name__)
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
            log.warning("redis_away", error=type(exc).__name__)
        await stop(self.ctx)
        await self.pool.aclose(close_connection_pool=True)
        if watchdog := self.ctx.get("watchdog"):  # or it would end, with an error, what only ends slowly
            watchdog.cancel()
            await asyncio.wait({watchdog})

    @property
    def free(self) -> int:
        """How many more jobs the sweep may start here: beside those that were rung, and half as many at most."""
        most = max(1, self.max_jobs // 2) if self.allow_pick_jobs else 0
        return max(0, most - len(self._direct))

    def take(self, job_id: str, email_id: int, attempt_number: int) -> None:
        """Run an attempt that Postgres says is due, unless it runs here already."""
        if job_id not in self.tasks:
            self._direct.add(job_id)
            self._begin(job_id, run_attempt(self.ctx, email_id, attempt_number))

    async def _answer(self, bell: Bell) -> None:
        """Start what is rung as far as hands are free, and sleep until there is more of either."""
        while True:
            self._awake.clear()
            more = len(self._direct) + len(self._beside)
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


async def run_attempt(ctx: dict[str, Any], email_id: int, attempt_number: int) -> None:
    await process(ctx["res"], email_id, attempt_number)


async def run_sync(ctx: dict[str, Any], email_id: int) -> None:
    await sync(ctx["res"], email_id)


async def run_reconcile(ctx: dict[str, Any]) -> None:
    """Have it done beside the jobs: it takes no job's place, and no shutdown waits for it."""
    ctx["hour"].set()


async def start(ctx: dict[str, Any]) -> None:
    """Open what the steps need, and begin to sweep and to renew leases."""
    settings: Settings = ctx["settings"]
    logs.configure(settings.log_format, settings.log_level, report)
    stack = ctx["stack"] = AsyncExitStack()
    res = await stack.enter_async_context(open_resources(settings))
    await stack.enter_async_context(_showing_metrics(settings))
    await stack.enter_async_context(beating(res))
    await stack.enter_async_context(background(lambda: sweep_for_ever(res, ctx["hands"])))
    await stack.enter_async_context(background(lambda: renew_leases(res)))
    await stack.enter_async_context(background(lambda: step_for_ever(res)))
    await stack.enter_async_context(background(lambda: verify_for_ever(res)))
    hour = ctx["hour"] = asyncio.Event()
    await stack.enter_async_context(background(lambda: reconcile_when_told(res, hour)))
    sweep_syncs = sync_for_ever if res.targets else drop_for_ever
    await stack.enter_async_context(background(lambda: sweep_syncs(res)))
    await stack.enter_async_context(alerting(res))
    ctx["res"] = res


async def stop(ctx: dict[str, Any]) -> None:
    if "stack" in ctx:
        await ctx["stack"].aclose()


@asynccontextmanager
async def _showing_metrics(settings: Settings) -> AsyncIterator[None]:
    """Serve what this process counts, if there is a port for it; a thread does, also while the event loop hangs."""
    server = None
    if settings.metrics_port is not None:
        try:
            server, _ = await asyncio.to_thread(start_http_server, settings.metrics_port, settings.host)
        except OSError as exc:  # another worker of this host has it
            log.warning("metrics_not_served", port=settings.metrics_port, error=type(exc).__name__)
    try:
        yield
    finally:
        if server is not None:
            await asyncio.to_thread(server.shutdown)
            server.server_close()


def worker_settings(settings: Settings) -> type:
    """Make the class that arq reads; each name is a parameter of `arq.worker.Worker`."""
    arq.worker.Worker = Worker  # type: ignore[misc] # what the `arq` command makes its worker with

    class WorkerSettings:
        functions = (func(run_attempt, name=TASK), func(run_sync, name=SYNC_TASK))
        cron_jobs = _cron_jobs(settings)
        ctx = {"settings": settings}  # noqa: RUF012 arq wants a dict
        redis_pool = create_redis(settings.redis_dsn, pool_size=settings.redis_pool_size)
        redis_settings = _redis_settings(settings.redis_dsn)  # `arq --check` reads this one
        job_completion_wait = int(settings.shutdown_seconds)
        max_jobs = settings.jobs_per_process
        poll_delay = POLL_SECONDS
        health_check_interval = HEALTH_CHECK_SECONDS
        # A key for each worker: a clean stop deletes it, and a shared one would hide a dead worker.
        health_check_key = f"holdfast:health:{settings.worker_name}"

    return WorkerSettings


def _cron_jobs(settings: Settings) -> list[CronJob]:
    """Name what is done by the clock, by one of all workers: the first to ring wins, and Postgres sees to the rest."""
    if not settings.reconcile_hours:
        return []
    place = f"{settings.account_url} {settings.storage_url}"
    return [cron(run_reconcile, name=RECONCILE_TASK, minute=minute(place), max_tries=1)]


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
