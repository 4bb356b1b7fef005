"""A proxy before the servers of the tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from service.config.settings import Settings
from service.local.drill.proxy import Proxy


@asynccontextmanager
async def before_postgres(settings: Settings) -> AsyncIterator[tuple[Proxy, Settings]]:
    """Put a proxy before the Postgres of `settings`; yield it and the settings to reach Postgres through it."""
    assert settings.database_url
    sockets = parse_qs(urlsplit(settings.database_url.get_secret_value()).query)["host"][0]
    async with Proxy(lambda: asyncio.open_unix_connection(f"{sockets}/.s.PGSQL.5432")) as proxy:
        url = SecretStr(f"postgresql://postgres:any@127.0.0.1:{proxy.port}/postgres?sslmode=disable")
        yield proxy, settings.model_copy(update={"database_url": url})


@asynccontextmanager
async def before_redis(settings: Settings) -> AsyncIterator[tuple[Proxy, Settings]]:
    """Put a proxy before the Redis of `settings`, likewise."""
    assert settings.redis_url
    path = urlsplit(settings.redis_url.get_secret_value()).path
    async with Proxy(lambda: asyncio.open_unix_connection(path)) as proxy:
        url = SecretStr(f"redis://127.0.0.1:{proxy.port}")
        yield proxy, settings.model_copy(update={"redis_url": url})
