"""aiohttp, asynchronous SQLAlchemy and arq: one transaction for each webhook, then `enqueue_job`."""

import os
from collections.abc import AsyncIterator

import uvloop
from aiohttp import web
from arq import ArqRedis, create_pool
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.contenders.reading import read
from benchmarks.contenders.record import database_url, make_email
from benchmarks.contenders.simple_worker import redis_settings

_SESSIONS = web.AppKey("sessions", async_sessionmaker[AsyncSession])
_REDIS = web.AppKey("redis", ArqRedis)


async def receive(request: web.Request) -> web.Response:
    body = await request.read()
    email = make_email(read(request.headers, body), body)
    try:
        async with request.app[_SESSIONS].begin() as session:
            session.add(email)
    except IntegrityError:
        return web.json_response({"status": "duplicate"})
    await request.app[_REDIS].enqueue_job("process", email.id)
    return web.json_response({"status": "accepted", "email_id": email.id})


async def _resources(app: web.Application) -> AsyncIterator[None]:
    engine = create_async_engine(database_url("asyncpg"), pool_size=20)
    app[_SESSIONS] = async_sessionmaker(engine, expire_on_commit=False)
    app[_REDIS] = await create_pool(redis_settings())
    yield
    await app[_REDIS].aclose()
    await engine.dispose()


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/webhooks/zendesk", receive)
    app.cleanup_ctx.append(_resources)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )
