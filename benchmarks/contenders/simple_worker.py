"""arq as documented: its own settings, and a transaction for each step of a job."""

import asyncio
import os
from typing import Any, ClassVar
from urllib.parse import urlsplit

from aiohttp import ClientSession
from arq.connections import RedisSettings
from sqlalchemy import func
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import selectinload

from benchmarks.contenders.record import Email, File, database_url, path_of


def redis_settings() -> RedisSettings:
    parts = urlsplit(os.environ["REDIS_URL"])
    if parts.scheme == "unix":
        return RedisSettings(unix_socket_path=parts.path)
    return RedisSettings(host=parts.hostname or "", port=parts.port or 6379)


async def process(ctx: dict[str, Any], email_id: int) -> None:
    """Download the files of an e-mail."""
    async with ctx["sessions"].begin() as session:
        email = await session.get_one(Email, email_id, options=[selectinload(Email.files)])
        email.processing_status, email.started_at = "processing", func.clock_timestamp()
    for file in email.files:
        path = path_of(file)
        async with ctx["http"].get(file.source_url, raise_for_status=True) as response:
            content = await response.read()
        await asyncio.to_thread(path.write_bytes, content)
        async with ctx["sessions"].begin() as session:
            stored = await session.get_one(File, file.id)
            stored.status, stored.path, stored.size = "stored", str(path), len(content)
    async with ctx["sessions"].begin() as session:
        email = await session.get_one(Email, email_id)
        email.processing_status, email.completed_at = "completed", func.clock_timestamp()


async def startup(ctx: dict[str, Any]) -> None:
    ctx["engine"] = create_async_engine(database_url("asyncpg"), pool_size=20)
    ctx["sessions"] = async_sessionmaker(ctx["engine"], expire_on_commit=False)
    ctx["http"] = ClientSession()


async def shutdown(ctx: dict[str, Any]) -> None:
    await ctx["http"].close()
    await ctx["engine"].dispose()


class WorkerSettings:
    functions: ClassVar = [process]
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = redis_settings()
