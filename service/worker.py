"""The door of the worker: `arq service.worker.WorkerSettings`."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from arq import func
from arq.connections import RedisSettings
from redis.asyncio.connection import parse_url

from service import logs
from service.config import Settings, SettingsError, read_settings
from service.dispatch import EXPIRES_MS, TASK, create_redis, serialize
from service.process.attempt import process, renew_leases
from service.recovery import sweep_for_ever
from service.resources import NEEDED, background, open_resources

# How long a dead worker may look alive to `arq --check`: arq keeps the key a second longer.
HEALTH_CHECK_SECONDS = 5


async def run_attempt(ctx: dict[str, Any], email_id: int, attempt_number: int) -> None:
    await process(ctx["res"], email_id, attempt_number)


async def start(ctx: dict[str, Any]) -> None:
    """Open what the steps need, and begin to sweep and to renew leases."""
    settings: Settings = ctx["settings"]
    logs.configure(settings.log_format, settings.log_level)
    stack = ctx["stack"] = AsyncExitStack()
    res = ctx["res"] = await stack.enter_async_context(open_resources(settings))
    await stack.enter_async_context(background(lambda: sweep_for_ever(res)))
    await stack.enter_async_context(background(lambda: renew_leases(res)))


async def stop(ctx: dict[str, Any]) -> None:
    await ctx["stack"].aclose()


def worker_settings(settings: Settings) -> type:
    """Make the class that arq reads; each name is a parameter of `arq.worker.Worker`."""

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
        settings = read_settings(*NEEDED)
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
