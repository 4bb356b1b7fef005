"""PgBouncer before Postgres gives each transaction any free connection."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from aiohttp import ClientSession
from pydantic import SecretStr
from sqlalchemy import text

from service.alerts.watch import look_once
from service.checks.report import check_all
from service.config.settings import Settings
from service.local.guard import guarded
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import connect, is_pooled
from service.queries.alerts import list_alerts
from service.resources import Resources, open_resources
from service.web.server.sockets import listening
from tests.conftest import ROOT, Client, eventually, program, serving, working
from tests.support import forked
from tests.support.connections import is_up
from tests.support.files import stored_files
from tests.support.processes import wait_for
from tests.support.rows import add_failed

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
NOBODY = 65534
CONNECTIONS = 3

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@contextmanager
def pgbouncer(database_url: str, directory: Path, mode: str) -> Iterator[str]:
    """Run PgBouncer before the Postgres of the tests; yield its URL."""
    assert PGBOUNCER
    server = parse_qs(urlsplit(database_url).query)["host"][0]
    ini = directory / "pgbouncer.ini"
    ini.write_text(f"""
[databases]
postgres = host={server} port=5432 user=postgres
[pgbouncer]
listen_addr =
unix_socket_dir = {directory}
listen_port = 6432
auth_type = any
pool_mode = {mode}
default_pool_size = {CONNECTIONS}
max_client_conn = 200
""")
    owner = (NOBODY, NOBODY) if os.geteuid() == 0 else None  # it refuses to run as root
    with subprocess.Popen(
        guarded([PGBOUNCER, "--quiet", str(ini)], signal.SIGTERM, owner=owner), stderr=subprocess.DEVNULL
    ) as process:
        wait_for((directory / ".s.PGSQL.6432").exists)
        try:
            yield f"postgresql://postgres:any@/postgres?host={directory}&port=6432"
        finally:
            process.kill()


@pytest.fixture
def pooled_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    with pgbouncer(database_url, tmp_path, "transaction") as url:
        yield url


@pytest.fixture
def pooled(settings: Settings, pooled_url: str) -> Settings:
    return settings.model_copy(update={"database_url": SecretStr(pooled_url)})


async def test_the_whole_flow_works_under_load_with_few_pooled_connections(
    pooled: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    pooled = pooled.model_copy(update={"lease_seconds": 60.0, "database_seconds": 30.0})  # three are few
    urls = [zendesk.add_file(f"{number}.txt", b"%d" % number * 500) for number in range(10)]
    with listening("127.0.0.1", 0) as (free,):
        port = str(free.getsockname()[1])
    variables = {"HOST": "127.0.0.1", "PORT": port, "WEB_CONCURRENCY": "2", "TMPDIR": str(tmp_path)}
    async with (
        program("service", "web", settings=pooled, **variables),
        program("arq", "service.worker.WorkerSettings", settings=pooled),
        program("arq", "service.worker.WorkerSettings", settings=pooled, WORKER_NAME="second"),
        ClientSession() as session,
    ):
        client = Client(f"http://127.0.0.1:{port}", session, zendesk)
        await eventually(lambda: is_up(client))
        receipts = await asyncio.gather(
            *(client.send(zendesk.payload(attachments=[urls[n % 10]])) for n in range(100))
        )
        ends = [await client.until(receipt["email_id"], "completed", "failed") for receipt in receipts]
        await client.get("/api/v1/emails?status=completed")
        await client.get("/api/v1/stats")
        servers = await database.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
        )

    assert {(end["processing_status"], end["retry_count"]) for end in ends} == {("completed", 0)}
    assert len(await stored_files(pooled)) == 10
    assert 1 <= servers <= CONNECTIONS


async def test_no_session_state_stays_on_a_pooled_connection(
    pooled: Settings, zendesk: Zendesk, pooled_url: str, database: asyncpg.Connection
) -> None:
    async with serving(pooled, zendesk) as client, working(pooled):
        receipt = await client.send(zendesk.payload(attachments=[zendesk.add_file("a.txt", b"a")]))
        email = await client.until(receipt["email_id"], "completed", "failed")
        assert await is_through_a_pooler(client.res)

    others = [await asyncpg.connect(pooled_url, statement_cache_size=0) for _ in range(CONNECTIONS)]
    try:
        left = await asyncio.gather(
            *(
                other.fetchval(
                    "SELECT count(*) + 0 * length(pg_sleep(0.2)::text) FROM pg_prepared_statements"
                )
                for other in others
            )
        )
    finally:
        for other in others:
            await other.close()
    assert email["processing_status"] == "completed"
    assert left == [0] * CONNECTIONS
    assert not await database.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")


async def test_without_a_pooler_prepared_statements_are_kept(res: Resources) -> None:
    async with connect(res.engine) as connection:
        for _ in range(3):
            found = await connection.execute(
                text("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%pg_prepared%'")
            )
            names = found.scalars().all()

    assert not await is_through_a_pooler(res)
    assert [name.startswith("holdfast_") for name in names] == [True]


def alembic(url: str, *words: str) -> forked.Done:
    return forked.run(["alembic", *words], {**os.environ, "DATABASE_URL": url}, ROOT)


def test_migrations_refuse_a_pooler(pooled_url: str) -> None:
    done = alembic(pooled_url, "upgrade", "head")

    assert done.returncode == 2
    assert done.stderr.startswith("DATABASE_URL: leads to a pooler, migrations need Postgres itself")
    assert done.stderr.count("\n") == 1


def test_migrations_run_through_a_pooler_that_keeps_sessions(database_url: str, tmp_path: Path) -> None:
    with pgbouncer(database_url, tmp_path, "session") as url:
        done = alembic(url, "-x", "pooled=yes", "current")

    assert done.returncode == 0, done.stderr
    assert "(head)" in done.stdout


async def test_alerts_are_found_and_opened_through_a_pooler(
    pooled: Settings, database: asyncpg.Connection
) -> None:
    async with open_resources(pooled) as res:
        for _ in range(2):
            await add_failed(database, "1 hour")
            await database.execute("UPDATE alert_watch SET next_at = now()")
            await look_once(res)
        assert await is_through_a_pooler(res)
        [alert] = (await list_alerts(res.engine)).alerts

    assert (alert.cause, alert.count) == ("failures", 2)


async def is_through_a_pooler(res: Resources) -> bool:
    async with connect(res.engine) as connection:
        return await is_pooled(connection)


async def test_check_names_the_pooler(pooled: Settings) -> None:
    async with open_resources(pooled) as res:
        checks = {check.name: check for check in await check_all(res)}

    assert "behind PgBouncer" in checks["postgres"].found
    assert checks["connections"].ok
