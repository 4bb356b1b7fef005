"""The resources of a process: settings, connections and clients, opened and closed together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeVar
from weakref import WeakValueDictionary

import structlog
from arq import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.config.reading import NEEDED, read_settings, setting_error
from service.config.settings import Settings
from service.errors import HoldfastError, SettingsError, Transient
from service.outbound.egress import Egress
from service.outbound.transfer import open_session
from service.postgres.batch import Batcher
from service.postgres.contents import has_no_contents
from service.postgres.engine import (
    COMMAND,
    GOODBYE_SECONDS,
    WORKER,
    close_engine,
    create_engine,
    insist,
    pool_of,
    run,
)
from service.postgres.pool import ADVICE, usage
from service.queue.arq_queue import create_redis
from service.queue.dispatch import Dispatcher
from service.storage.objects import Storage, open_storage
from service.targets.circuit_breaker import CircuitBreakers
from service.targets.target import AcceptedDocuments, Target, open_targets
from service.telemetry.exporters import Traces, open_sentry, open_traces
from service.zendesk.account import Account, LearnedSecrets, account_of
from service.zendesk.budget import EXPORTS, SharedBudget
from service.zendesk.client import ZendeskClient
from service.zendesk.signature import Streak

_EXTRAS = {
    "sentry_dsn": ("sentry_sdk", "sentry"),
    "otel_exporter_otlp_endpoint": ("opentelemetry.sdk", "otel"),
    "otel_exporter_otlp_traces_endpoint": ("opentelemetry.sdk", "otel"),
}

# Idle connections to Postgres are closed after this time, so that a burst does not keep them from other processes.
IDLE_SECONDS = 60.0
POOL_CHECK_SECONDS = 2.0
HOLDERS_SECONDS = 3.0

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True)
class LookUp:
    """A running look-up of a ticket, and the e-mails whose attempts wait for it: they read their files afterwards."""

    task: asyncio.Task[None]
    email_ids: set[int]


@dataclass(frozen=True)
class Resources:
    """The live resources of a process, passed to each step as `res`."""

    settings: Settings
    engine: AsyncEngine
    batch: Batcher
    redis: ArqRedis
    dispatcher: Dispatcher
    storage: Storage
    account: Account
    zendesk: ZendeskClient
    traces: Traces
    targets: Sequence[Target]
    circuit_breakers: CircuitBreakers
    slots: asyncio.Semaphore  # concurrent downloads
    host_slots: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)
    claims: set[tuple[int, int]] = field(default_factory=set)  # fencing tokens of the running attempts
    look_ups: dict[tuple[str, str], LookUp] = field(default_factory=dict)  # by account and ticket
    # The next page of long tickets whose reading was cut off, by account, ticket and the comment that is looked for.
    next_pages: dict[tuple[str, str, str], str] = field(default_factory=dict)
    accepted: AcceptedDocuments = field(default_factory=AcceptedDocuments)
    bad_signatures: Streak = field(default_factory=Streak)
    learned_secrets: LearnedSecrets = field(default_factory=LearnedSecrets)

    async def run(self, statement: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run a statement within the time budget; raises as `postgres.engine.run` does."""
        return await run(self.engine, self.settings.database_seconds, statement)

    async def insist(self, statement: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run a statement, and repeat it while Postgres is away; raises as `postgres.engine.insist` does."""
        return await insist(lambda: self.run(statement))


def read_settings_for_resources() -> Settings:
    """Read the settings that `open_resources` needs; raises SettingsError."""
    settings = read_settings(*NEEDED)
    check_usable(settings)
    return settings


def check_usable(settings: Settings) -> None:
    """Have the libraries read the settings that only they can check: URLs, targets, the DSN; raises SettingsError."""
    if any(url.get_secret_value().startswith("mongodb") for url in settings.sync_url) and not _is_installed(
        "pymongo"
    ):
        raise SettingsError(setting_error("sync_url", "needs pip install 'holdfast[mongodb]'"))
    if settings.sync_links == "presigned" and (settings.storage_url or "").startswith("file:"):
        raise SettingsError(setting_error("sync_links", "a directory signs no links, it must be api"))
    try:
        field = "redis_url"
        create_redis(settings.redis_dsn, pool_size=1).connection_pool.make_connection()  # type: ignore[no-untyped-call]
        field = "storage_url"
        open_storage(settings.storage_url or "")
        field = "sync_url"
        open_targets(settings)
    except (ValueError, TypeError, OSError, RedisError, HoldfastError) as exc:
        raise SettingsError(setting_error(field, f"cannot be used ({type(exc).__name__})")) from None
    _check_sentry(settings)
    for field, (module, extra) in _EXTRAS.items():
        if getattr(settings, field) and not _is_installed(module):
            raise SettingsError(setting_error(field, f"needs pip install 'holdfast[{extra}]'"))


@asynccontextmanager
async def open_resources(settings: Settings, process: str = WORKER) -> AsyncIterator[Resources]:
    """Open all resources; connections open at first use, so that a process starts while a dependency is down.

    Needs the settings named in NEEDED. `process` is the name of the connections; a command gets one to Postgres and two
    to Redis, whatever the settings say.
    """
    assert settings.storage_url  # noqa: S101 NEEDED has it
    account = account_of(settings)
    async with AsyncExitStack() as stack:
        dsn = settings.sentry_dsn.get_secret_value() if settings.sentry_dsn else None
        await stack.enter_async_context(open_sentry(dsn, settings.worker_name))
        traces = await stack.enter_async_context(open_traces(settings.traces_url))
        engine, batch = await _open_postgres(stack, settings, process)
        redis, dispatcher = await _open_queue(stack, settings, process, engine)
        targets = await asyncio.to_thread(open_targets, settings)  # PyMongo reads files
        for target in targets:
            stack.push_async_callback(target.close)
        egress = Egress(account.download_hosts, settings.download_private_networks)
        session = await stack.enter_async_context(open_session(egress))
        budget = SharedBudget(batch, account.url, settings.zendesk_calls_percent)
        exports = SharedBudget(batch, account.url, 100, EXPORTS)
        zendesk = ZendeskClient(account, session, egress, budget, exports)
        stack.push_async_callback(zendesk.close)
        yield Resources(
            settings=settings,
            account=account,
            zendesk=zendesk,
            engine=engine,
            batch=batch,
            redis=redis,
            dispatcher=dispatcher,
            storage=open_storage(
                settings.storage_url, lambda: run(engine, settings.database_seconds, has_no_contents)
            ),
            traces=traces,
            targets=targets,
            circuit_breakers=CircuitBreakers(
                [target.name for target in targets],
                settings.syncs_per_process,
                settings.sync_retry_max_seconds,
            ),
            slots=asyncio.Semaphore(settings.downloads_per_process),
        )


async def _open_postgres(
    stack: AsyncExitStack, settings: Settings, process: str
) -> tuple[AsyncEngine, Batcher]:
    assert settings.database_url  # noqa: S101 NEEDED has it
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_size=1 if process == COMMAND else settings.database_pool_size,
        seconds=settings.database_seconds,
        name=process,
    )
    stack.push_async_callback(close_engine, engine)
    await stack.enter_async_context(background(lambda: look_after_pool(engine)))
    seconds = settings.database_seconds
    batch = Batcher(lambda statement, items: run(engine, seconds, lambda conn: statement(conn, items)))
    stack.push_async_callback(batch.close, GOODBYE_SECONDS)
    return engine, batch


async def _open_queue(
    stack: AsyncExitStack, settings: Settings, process: str, engine: AsyncEngine
) -> tuple[ArqRedis, Dispatcher]:
    pool_size = 2 if process == COMMAND else settings.redis_pool_size
    redis = create_redis(settings.redis_dsn, pool_size=pool_size)
    stack.push_async_callback(redis.aclose, close_connection_pool=True)
    dispatcher = Dispatcher(engine, redis)
    for work in (dispatcher.enqueue_for_ever, dispatcher.mark_for_ever, dispatcher.probe_for_ever):
        await stack.enter_async_context(background(work))
    stack.push_async_callback(dispatcher.drain)
    return redis, dispatcher


def connection_limits(settings: Settings, processes: int, redis_pools: int = 1) -> dict[str, int]:
    """Return the most connections that these processes may open together, for the log."""
    return {
        "processes": processes,
        "most_database_connections": processes * settings.database_pool_size,
        "most_redis_connections": processes * redis_pools * settings.redis_pool_size,
    }


@asynccontextmanager
async def background(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run `work` concurrently with the block; restart it whenever it ends or raises; stop it with the block."""

    async def run() -> None:
        while True:
            try:
                await work()
            except Exception:  # log it, and pause before the restart
                log.exception("background_work_failed", work=work.__qualname__)
            if task.cancelling():  # it raised this in place of the cancellation
                return
            await asyncio.sleep(1)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        while not task.done():  # a library may swallow a cancellation, or raise another error in its place
            task.cancel()
            await asyncio.wait({task}, timeout=1)


async def repeat_steps(step: Callable[[], Awaitable[bool]], *, soon: float, idle: float, event: str) -> None:
    """Take due steps of leased work until cancelled; log `event` where Postgres is away.

    Pauses are in seconds: `soon` after a step, and up to `idle` where none was due.
    """
    pause = idle
    while True:
        await asyncio.sleep(pause)
        try:
            pause = soon if await step() else min(2 * pause, idle)
        except Transient as exc:
            log.warning(event, code=exc.code)
            pause = idle


def _check_sentry(settings: Settings) -> None:
    """Have Sentry's own SDK read the DSN, if it is installed."""
    if settings.sentry_dsn and _is_installed("sentry_sdk"):
        from sentry_sdk.utils import BadDsn, Dsn  # noqa: PLC0415 an extra has it

        try:
            Dsn(settings.sentry_dsn.get_secret_value())
        except (BadDsn, ValueError):
            raise SettingsError(setting_error("sentry_dsn", "is not a DSN")) from None


async def look_after_pool(
    engine: AsyncEngine, *, idle_seconds: float = IDLE_SECONDS, pause: float = POOL_CHECK_SECONDS
) -> None:
    """Close idle connections, and log refusals by Postgres, until cancelled."""
    known = 0
    while True:
        await asyncio.sleep(pause)
        pool = pool_of(engine)
        await pool.close_idle(idle_seconds)
        if refused := pool.refusals - known:
            known = pool.refusals
            about = {"open": pool.open, "most": pool.most, "held": await _holders(engine), "advice": ADVICE}
            log.warning("database_refuses_connections", refused=refused, **about)


async def _holders(engine: AsyncEngine) -> str:
    """Return the users of Postgres's connections; "unknown" where this process can open none."""
    try:
        found = await run(engine, HOLDERS_SECONDS, usage)
    except HoldfastError:
        return "unknown"
    return str(found)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False
