"""After a failover, read-only sessions of the pool are replaced; if all are read-only, responses say so."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.checks.postgres import check_postgres
from service.config.settings import Settings
from service.errors import Transient
from service.local.drill.proxy import Proxy
from service.local.servers import postgres
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import run
from service.resources import Resources, open_resources
from tests.conftest import Client, Server, eventually, serving


@asynccontextmanager
async def read_only(database: asyncpg.Connection, url: str, *, new_sessions: bool) -> AsyncIterator[None]:
    """Make all existing sessions read-only, except for `database`, and optionally new ones."""
    await database.execute("SET default_transaction_read_only = off")
    witness = await asyncpg.connect(url)

    async def is_on() -> bool:
        return bool(await witness.fetchval("SHOW default_transaction_read_only") == "on")

    try:
        if not new_sessions:
            await database.execute("ALTER DATABASE postgres SET default_transaction_read_only = off")
        await database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await database.execute("SELECT pg_reload_conf()")
        assert await eventually(is_on)
        yield
    finally:
        await database.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await database.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
        await database.execute("SELECT pg_reload_conf()")
        await witness.close()


async def fill_pool(client: Server) -> None:
    """Give each connection of the pool a session of its own."""

    async def hold() -> None:
        async with client.res.engine.connect() as conn:
            await conn.execute(text("SELECT pg_sleep(0.2)"))

    await asyncio.gather(*(hold() for _ in range(client.res.settings.database_pool_size)))


async def count(database: asyncpg.Connection) -> int:
    return int(await database.fetchval("SELECT count(*) FROM incoming_emails"))


async def test_read_only_sessions_fail_no_webhook(
    settings: Settings, zendesk: Zendesk, database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(settings, zendesk) as client:
        await fill_pool(client)
        async with read_only(database, database_url, new_sessions=False):
            ready = await client.get("/readyz")
            await asyncio.gather(*(client.send(zendesk.payload()) for _ in range(40)))

    assert ready["checks"]["database"]["ok"]
    assert await count(database) == 40


async def test_without_a_probe_the_first_write_detects_read_only_sessions(
    settings: Settings, zendesk: Zendesk, database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(settings, zendesk) as client:
        await fill_pool(client)
        async with read_only(database, database_url, new_sessions=False):
            for _ in range(15):
                await client.send(zendesk.payload())

    assert await count(database) == 15


async def test_a_read_only_server_is_reported_in_responses(
    settings: Settings, zendesk: Zendesk, database_url: str, database: asyncpg.Connection
) -> None:
    async with serving(settings, zendesk) as client:
        await client.get("/readyz")
        async with read_only(database, database_url, new_sessions=True):
            ready = await client.get("/readyz", status=503)
            refused = await zendesk.send(client.webhook, zendesk.payload())
            check = await check_postgres(client.res)
        accepted = await client.send(zendesk.payload())

    assert ready["checks"]["database"]["error"] == "database_read_only"
    assert (refused.status, refused.json()["code"]) == (503, "database_read_only")
    assert int(refused.headers["Retry-After"]) > 0
    assert check.ok is False
    assert "accepts no writes" in check.found
    assert "target_session_attrs=read-write" in check.advice
    assert accepted["status"] == "accepted"


async def test_a_worker_continues_after_its_sessions_became_read_only(
    client: Client, res: Resources, database_url: str, database: asyncpg.Connection
) -> None:
    async def write(conn: AsyncConnection) -> int:
        return (await conn.execute(text("UPDATE workers SET version = '2' RETURNING 1"))).rowcount

    await database.execute("INSERT INTO workers (name, pid, version) VALUES ('worker.1', 1, '1')")
    await run(res.engine, 5, write)
    async with read_only(database, database_url, new_sessions=False):
        assert await run(res.engine, 5, write) == 1


@pytest.mark.parametrize("state", ["57P01", "57P02", "57P03", "25006"])
async def test_an_ended_session_is_replaced_and_the_statement_repeated(state: str, res: Resources) -> None:
    sessions: list[int] = []

    async def ask(conn: AsyncConnection) -> int:
        sessions.append(int(await conn.scalar(text("SELECT pg_backend_pid()")) or 0))
        if len(sessions) == 1:
            await conn.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))
        return len(sessions)

    assert await run(res.engine, 5, ask) == 2
    assert sessions[0] != sessions[1]


async def test_other_errors_keep_the_session(res: Resources) -> None:
    async def break_(conn: AsyncConnection) -> None:
        await conn.execute(text("SELECT 1/0"))

    async def session(conn: AsyncConnection) -> object:
        return await conn.scalar(text("SELECT pg_backend_pid()"))

    before = await run(res.engine, 5, session)
    with pytest.raises(Exception):  # noqa: B017, PT011 its class does not matter
        await run(res.engine, 5, break_)

    assert await run(res.engine, 5, session) == before


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[str]:
    """Run a second Postgres that accepts no writes."""
    with postgres(tmp_path / "standby") as url:
        url = url.replace("postgres@", "postgres:any@")  # with a password, asyncpg does not read ~/.pgpass
        asyncio.run(become_read_only(url))
        yield url


async def become_read_only(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


def before(url: str) -> Proxy:
    """Open a port that leads to the Postgres of this socket's URL."""
    path = f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"
    return Proxy(lambda: asyncio.open_unix_connection(path))


async def test_the_writable_one_of_several_hosts_is_used(
    standby: str, settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, database_url: str
) -> None:
    async with before(standby) as away, before(database_url) as primary:
        url = (
            f"postgresql://postgres:any@127.0.0.1:{away.port},127.0.0.1:{primary.port}/postgres"
            "?sslmode=disable&target_session_attrs=read-write"
        )
        async with serving(settings.model_copy(update={"database_url": SecretStr(url)}), zendesk) as client:
            ready = await client.get("/readyz")
            await client.send(zendesk.payload())

        assert away.connections > 0
    assert ready["status"] == "ready"
    assert await count(database) == 1


async def test_read_only_has_a_code_in_responses(
    settings: Settings, database_url: str, database: asyncpg.Connection
) -> None:
    async with open_resources(settings) as res, read_only(database, database_url, new_sessions=True):
        with pytest.raises(Transient) as caught:
            await run(res.engine, 5, lambda conn: conn.execute(text("DELETE FROM workers")))

    assert caught.value.code == "database_read_only"
    assert "primary" in caught.value.message
