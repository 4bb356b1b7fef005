"""The entry point of the worker: `arq service.worker.WorkerSettings`."""

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

import arq.worker
import structlog
import uvloop
from arq import cron, func
from arq.connections import RedisSettings
from arq.cron import CronJob
from redis.asyncio.connection import parse_url

from service.alerts.watch import alerting
from service.backfill.run import backfill_for_ever
from service.capture.attempt import process, renew_leases
from service.capture.message import ask_subjects_for_ever
from service.capture.originals import ask_originals_for_ever
from service.capture.sweep import retry_malware_for_ever, sweep_for_ever
from service.capture.word_index import index_for_ever
from service.config.limits import raise_file_limit
from service.config.settings import Settings
from service.connect.drift import watch_for_ever
from service.custody.documents import tell_for_ever
from service.custody.erasure import erase_for_ever
from service.custody.objects import remove_for_ever
from service.custody.purge import purge_for_ever
from service.custody.zendesk_deletions import follow_for_ever
from service.errors import SettingsError
from service.evidence.verify import verify_when_due
from service.evidence.work import log_for_ever
from service.operate import bulk_retry, outcomes
from service.operate.merge import identify_for_ever
from service.queue.arq_queue import create_redis
from service.queue.dispatch import SYNC_TASK, TASK
from service.reconcile.day_proof import prove_for_ever
from service.reconcile.hourly import minute, reconcile_when_due
from service.reconcile.recount import recount_for_ever
from service.reconcile.verify import verify_for_ever
from service.resources import background, connection_limits, open_resources, read_settings_for_resources
from service.sync.attempt import sync
from service.sync.sweep import drop_for_ever, sync_for_ever
from service.takeover.lists import read_lists_for_ever
from service.telemetry import logs
from service.telemetry.exporters import report
from service.telemetry.exposition import serve_process_metrics
from service.telemetry.version import commit, version
from service.worker.heartbeat import beating
from service.worker.loop import Worker
from service.zendesk.account import account_of

# `arq --check` notices a dead worker after this time: arq keeps the key a second longer.
HEALTH_CHECK_SECONDS = 5
# Workers also poll: arq's own `enqueue_job` wakes no worker.
POLL_SECONDS = 1.0
RECONCILE_TASK = "reconcile"

log = structlog.get_logger()


async def run_attempt(ctx: dict[str, Any], email_id: int, attempt_number: int) -> None:
    await process(ctx["res"], email_id, attempt_number)


async def run_sync(ctx: dict[str, Any], email_id: int) -> None:
    await sync(ctx["res"], email_id)


async def run_reconcile(ctx: dict[str, Any]) -> None:
    """Start the hourly reconciliation in the background: it takes no job's place, and no shutdown waits for it."""
    ctx["reconcile_is_due"].set()


async def start(ctx: dict[str, Any]) -> None:
    """Open the resources, and start the background work of a worker."""
    settings: Settings = ctx["settings"]
    logs.configure(settings.log_format, settings.log_level, report)
    log.info("worker_starting", **connection_limits(settings, 1, redis_pools=2))
    raise_file_limit()
    known = await asyncio.to_thread(lambda: {"version": version(), "commit": commit()})
    log.info("started", process="worker", **known)
    stack = ctx["stack"] = AsyncExitStack()
    res = await stack.enter_async_context(open_resources(settings))
    await stack.enter_async_context(serve_process_metrics(settings.metrics_port, settings.host))
    await stack.enter_async_context(beating(res))
    is_due = ctx["reconcile_is_due"] = asyncio.Event()
    sweep_syncs = sync_for_ever if res.targets else drop_for_ever
    for work in (
        lambda: sweep_for_ever(res, ctx["worker"]),
        lambda: retry_malware_for_ever(res),
        lambda: renew_leases(res),
        lambda: bulk_retry.step_for_ever(res),
        lambda: outcomes.step_for_ever(res),
        lambda: verify_for_ever(res),
        lambda: recount_for_ever(res),
        lambda: prove_for_ever(res),
        lambda: read_lists_for_ever(res),
        lambda: ask_subjects_for_ever(res),
        lambda: ask_originals_for_ever(res),
        lambda: index_for_ever(res),
        lambda: identify_for_ever(res),
        lambda: erase_for_ever(res),
        lambda: follow_for_ever(res),
        lambda: backfill_for_ever(res),
        lambda: reconcile_when_due(res, is_due),
        lambda: watch_for_ever(res),
        lambda: purge_for_ever(res),
        lambda: remove_for_ever(res),
        lambda: tell_for_ever(res),
        lambda: log_for_ever(res),
        lambda: verify_when_due(res),
        lambda: sweep_syncs(res),
    ):
        await stack.enter_async_context(background(work))
    await stack.enter_async_context(alerting(res))
    ctx["res"] = res


async def stop(ctx: dict[str, Any]) -> None:
    if "stack" in ctx:
        await ctx["stack"].aclose()


def from_environment() -> type:
    """Make the class from the environment; a wrong setting is one line on stderr, and exit status 2."""
    try:
        settings = read_settings_for_resources()
    except SettingsError as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(2)
    asyncio.set_event_loop(uvloop.new_event_loop())  # the loop that arq's Worker takes
    return worker_settings(settings)


def worker_settings(settings: Settings) -> type:
    """Make the class that arq reads; each name is a parameter of `arq.worker.Worker`."""
    # The `arq` command makes its worker from this name. Ours replaces it for the reasons given in service/worker/loop.py.
    arq.worker.Worker = Worker  # type: ignore[misc]

    class WorkerSettings:
        functions = (func(run_attempt, name=TASK), func(run_sync, name=SYNC_TASK))
        cron_jobs = _cron_jobs(settings)
        on_startup = start
        on_shutdown = stop
        ctx = {"settings": settings}  # noqa: RUF012 arq wants a dict
        redis_pool = create_redis(settings.redis_dsn, pool_size=settings.redis_pool_size)
        redis_settings = _redis_settings(settings.redis_dsn)  # for `arq --check`
        job_completion_wait = int(settings.shutdown_seconds)
        max_jobs = settings.jobs_per_process
        poll_delay = POLL_SECONDS
        health_check_interval = HEALTH_CHECK_SECONDS
        # One key per worker: a clean stop deletes it, and a shared one would hide a dead worker.
        health_check_key = f"holdfast:health:{settings.worker_name}"

    return WorkerSettings


def _cron_jobs(settings: Settings) -> list[CronJob]:
    """List the hourly tasks; the first worker to enqueue one runs it, and Postgres prevents a second run."""
    if not settings.reconcile_hours:
        return []
    place = f"{account_of(settings).url} {settings.storage_url}"
    return [cron(run_reconcile, name=RECONCILE_TASK, minute=minute(place))]


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
