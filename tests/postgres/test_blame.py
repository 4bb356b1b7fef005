"""Postgres is blamed for its own errors alone: not for those of the block, and not as away while it answers."""

import errno

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.config.settings import Settings
from service.errors import Transient
from service.postgres.engine import close_engine, connect, create_engine, driver_of
from tests.support.proxy import before_postgres

COUNT = "SELECT count(*) FROM incoming_emails"


def engine_of(settings: Settings) -> AsyncEngine:
    assert settings.database_url
    url = settings.database_url.get_secret_value()
    return create_engine(url, pool_size=1, seconds=5, statement_seconds=0.5)


async def error_of(engine: AsyncEngine, *, is_raw: bool = False) -> Transient:
    """Return the error of a statement, also of one that asyncpg itself runs."""
    with pytest.raises(Transient) as caught:
        async with connect(engine) as conn:
            await ((await driver_of(conn)).fetchval(COUNT) if is_raw else conn.scalar(text(COUNT)))
    return caught.value


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError()])
async def test_an_error_of_the_block_stays_what_it_is(settings: Settings, error: OSError) -> None:
    engine = engine_of(settings)

    async def fail() -> None:
        async with connect(engine) as conn:
            await conn.execute(text(COUNT))
            raise error

    with pytest.raises(OSError, match=r"No space left|^$") as caught:
        await fail()
    async with connect(engine) as conn:
        left = await conn.scalar(text("SELECT 1"))
    await close_engine(engine)

    assert caught.value is error
    assert left == 1


@pytest.mark.parametrize("is_raw", [False, True])
async def test_a_statement_that_waits_for_a_lock_is_slow_and_postgres_answers(
    is_raw: bool,  # noqa: FBT001 a parameter of the test
    settings: Settings,
    database: asyncpg.Connection,
) -> None:
    engine = engine_of(settings)
    async with database.transaction():
        await database.execute("LOCK TABLE incoming_emails IN ACCESS EXCLUSIVE MODE")
        error = await error_of(engine, is_raw=is_raw)
    await close_engine(engine)

    assert error.code == "database_slow"
    assert error.message.startswith("Postgres answers, but")


@pytest.mark.parametrize("is_raw", [False, True])
async def test_a_postgres_that_answers_nothing_cannot_be_reached(
    is_raw: bool,  # noqa: FBT001 a parameter of the test
    settings: Settings,
) -> None:
    async with before_postgres(settings) as (proxy, proxied):
        engine = engine_of(proxied)
        async with connect(engine) as conn:
            await conn.execute(text(COUNT))
        proxy.freeze()
        error = await error_of(engine, is_raw=is_raw)
        await close_engine(engine)

    assert error.code == "database_unavailable"
    assert error.message.startswith("Postgres cannot be reached: ")


async def test_a_lost_connection_is_an_outage(settings: Settings) -> None:
    async with before_postgres(settings) as (proxy, proxied):
        engine = engine_of(proxied)
        async with connect(engine) as conn:
            await conn.execute(text(COUNT))
        proxy.cut()
        error = await error_of(engine, is_raw=True)
        await close_engine(engine)

    assert error.code in {"database_unavailable", "database_disconnected"}
