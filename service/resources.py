"""The live things a process works with, opened and closed together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import structlog
from aiohttp import ClientSession
from arq import ArqRedis
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

from service.config import Settings
from service.database import create_engine
from service.dispatch import Dispatcher, create_redis
from service.download import Credentials, open_session
from service.egress import Egress
from service.jobs.running import Claim
from service.storage import Storage, open_storage
from service.zendesk.client import authorization

log = structlog.get_logger()


@dataclass(frozen=True)
class Resources:
    """What a step may use; passed explicitly, as `res`."""

    settings: Settings
    engine: AsyncEngine
    redis: ArqRedis
    dispatcher: Dispatcher
    storage: Storage
    egress: Egress
    session: ClientSession
    credentials: Credentials | None
    claims: set[Claim] = field(default_factory=set)  # the jobs that this process holds
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    host_slots: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)
