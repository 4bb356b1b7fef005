"""A Postgres with few connections: they are shared, released when idle, and waited for when refused."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
import structlog
from aiohttp import ClientSession
from pydantic import SecretStr
from sqlalchemy import text

from service.alerts.watch import look_once
from service.checks.postgres import judge_connections
from service.checks.report import check_all
from service.config.settings import Settings
from service.errors import Transient
from service.local.zendesk.sender import sign_headers
from service.local.zendesk.stand_in import Zendesk
from service.postgres.engine import COMMAND, close_engine, connect, create_engine, driver_of, pool_of, run
from service.postgres.pool import TOO_MANY, Usage, usage
from service.queries.alerts import list_alerts
from service.resources import background, look_after_pool, open_resources
from service.web.server.sockets import listening
from tests.conftest import API_TOKEN, ROOT, Client, eventually, program, serving
from tests.support.connections import is_up

ROLE = "limited"
AS_A_PERSON = {"Authorization": f"Bearer {API_TOKEN}", "Accept": "text/html"}
PAGES = ("/", "/emails", "/failures", "/quarantine", "/activity", "/api/v1/emails", "/api/v1/stats")
# The limit of heroku-postgresql:essential-0; the rates suit a slow machine that runs other tests too.
PLAN, WEBHOOKS_PER_SECOND, PAGES_PER_SECOND, SECONDS = 20, 30, 10, 4


@pytest.fixture
async def limit(database: asyncpg.Connection) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Limit the connections of a separate role without superuser rights."""
    await database.execute(f"DROP ROLE IF EXISTS {ROLE}")
    await database.execute(f"CREATE ROLE {ROLE} LOGIN IN ROLE postgres CONNECTION LIMIT {PLAN}")
    yield lambda number: database.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {number}")
    await database.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
def limited(limit: Callable[[int], Awaitable[None]], settings: Settings, database_url: str) -> Settings:
    url = database_url.replace("postgres:any@", f"{ROLE}:any@")
    return settings.model_copy(update={"database_url": SecretStr(url)})


async def sessions(database: asyncpg.Connection) -> Counter[str]:
    query = "SELECT application_name FROM pg_stat_activity WHERE usename = $1"
    return Counter(row[0] for row in await database.fetch(query, ROLE))


@asynccontextmanager
async def holding(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """Hold a connection, as another program does."""
    assert settings.database_url
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


async def at_a_rate(
    send: Callable[[int], Coroutine[None, None, int]], per_second: float, seconds: float
) -> Counter[int]:
    """Send this many requests a second; count the responses by status."""
    tasks: list[asyncio.Task[int]] = []
    for number in range(int(per_second * seconds)):
        tasks.append(asyncio.create_task(send(number)))
        await asyncio.sleep(1 / per_second)
    return Counter(await asyncio.gather(*tasks))


@asynccontextmanager
async def counting(database: asyncpg.Connection) -> AsyncIterator[list[Counter[str]]]:
    """Sample the sessions repeatedly."""
    seen: list[Counter[str]] = []

    async def look() -> None:
        while True:
            seen.append(await sessions(database))
            await asyncio.sleep(0.05)

    async with background(look):
        yield seen


async def alembic(settings: Settings) -> asyncio.subprocess.Process:
    assert settings.database_url
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "upgrade", "head"),
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": settings.database_url.get_secret_value()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_two_web_processes_a_worker_a_release_and_a_command_share_the_connections_of_a_plan(
    limited: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    file = zendesk.add_file("a.txt", b"a")
    patient = limited.model_copy(update={"database_seconds": 30.0, "log_level": "WARNING"})
    with listening("127.0.0.1", 0) as (free,):
        port = free.getsockname()[1]
    variables = {"HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": "2"}
    async with (
        program("service", "web", settings=patient, **variables),
        program("arq", "service.worker.WorkerSettings", settings=patient),
        ClientSession() as session,
        counting(database) as seen,
    ):
        client = Client(f"http://127.0.0.1:{port}", session, zendesk)
        await eventually(lambda: is_up(client))

        async def send(_: int) -> int:
            body = json.dumps(zendesk.payload(attachments=[file])).encode()
            headers = sign_headers(body, zendesk.secret)
            async with session.post(client.webhook, data=body, headers=headers) as answer:
                return answer.status

        async def look(number: int) -> int:
            path = client.url + PAGES[number % len(PAGES)]
            async with session.get(path, headers=AS_A_PERSON) as answer:
                return answer.status

        load = asyncio.gather(
            at_a_rate(send, WEBHOOKS_PER_SECOND, SECONDS), at_a_rate(look, PAGES_PER_SECOND, SECONDS)
        )
        async with program("service", "status", settings=patient) as status:
            release = await alembic(patient)
            _, told = await release.communicate()
            said = await status.wait()
        webhooks, pages = await load

    assert webhooks == {200: WEBHOOKS_PER_SECOND * SECONDS}
    assert pages == {200: PAGES_PER_SECOND * SECONDS}
    assert (release.returncode, told) == (0, b"")
    assert said in {0, 3, 4}, "it could tell"
    assert {name for one in seen for name in one} >= {"holdfast web", "holdfast worker", "holdfast command"}
    assert max(one.total() for one in seen) <= PLAN - 3, "there is room for what else somebody runs"


async def test_after_a_burst_the_connections_are_closed(
    limited: Settings, database: asyncpg.Connection
) -> None:
    async with open_resources(limited) as res:
        await asyncio.gather(
            *(run(res.engine, 30, lambda conn: conn.execute(text("SELECT pg_sleep(0.1)"))) for _ in range(20))
        )
        burst = (await sessions(database)).total()

        async def is_over() -> bool:
            return not await sessions(database)

        async with background(lambda: look_after_pool(res.engine, idle_seconds=0.1, pause=0.05)):
            await eventually(is_over)
        async with connect(res.engine) as conn:
            again = await conn.scalar(text("SELECT 1"))

    assert (burst, again) == (limited.database_pool_size, 1)
    assert pool_of(res.engine).open == 0


async def test_a_process_works_with_its_connections_when_refused_more(
    limited: Settings, limit: Callable[[int], Awaitable[None]], zendesk: Zendesk
) -> None:
    await limit(1)
    # Other tests may keep the machine busy.
    patient = limited.model_copy(update={"database_seconds": 30.0})
    with structlog.testing.capture_logs() as logs:
        async with serving(patient, zendesk) as client:
            answers = await asyncio.gather(
                *(client.send(zendesk.payload()) for _ in range(30)),
                *(client.get("/api/v1/emails") for _ in range(10)),
            )
            ready = await client.get("/readyz")

            async def told() -> Any:
                return next((log for log in logs if log["event"] == "database_refuses_connections"), None)

            log = await eventually(told)

    assert len(answers) == 40
    assert ready["checks"]["database"]["ok"]
    assert "the limit of the role is reached" in ready["checks"]["database"]["detail"]
    assert (log["open"], log["most"]) == (1, limited.database_pool_size)
    assert log["held"] == "1 of 1 are open: holdfast web 1"
    assert "lower DATABASE_POOL_SIZE" in log["advice"]


async def test_a_process_without_connections_names_the_cause_and_recovers(
    limited: Settings, limit: Callable[[int], Awaitable[None]], zendesk: Zendesk
) -> None:
    await limit(1)
    limited = limited.model_copy(update={"database_seconds": 3.0})
    async with AsyncExitStack() as open_ones:
        async with holding(limited):
            client = await open_ones.enter_async_context(serving(limited, zendesk))
            answer = await zendesk.send(client.webhook, zendesk.payload())
            ready = await client.get("/readyz", status=503)
            while (
                ready["checks"]["database"]["error"] == "database_slow"
            ):  # its time ended before Postgres refused it
                ready = await client.get("/readyz", status=503)
        await eventually(lambda: accepted(client, zendesk))

    assert (answer.status, answer.json()["code"]) == (503, TOO_MANY)
    assert ready["checks"]["database"]["error"] == TOO_MANY
    for told in (answer.json()["detail"], ready["checks"]["database"]["detail"]):
        assert "DATABASE_POOL_SIZE" in told
        assert ROLE not in told
        assert "migrate" not in told


async def accepted(client: Client, zendesk: Zendesk) -> bool:
    return (await zendesk.send(client.webhook, zendesk.payload())).status == 200


async def test_check_names_the_cause_and_advises_no_migration(
    limited: Settings, limit: Callable[[int], Awaitable[None]]
) -> None:
    await limit(1)
    async with holding(limited), open_resources(limited, COMMAND) as res:
        checks = {check.name: check for check in await check_all(res)}

    for name in ("postgres", "migrations", "connections", "clock of Postgres", "workers", "waiting"):
        assert checks[name].ok is False
        assert "too many are open" in checks[name].found
        assert "migrate" not in checks[name].found + checks[name].advice
    assert "the limit of the role is reached" in checks["connections"].found
    assert "lower DATABASE_POOL_SIZE" in checks["connections"].advice
    assert checks["workers"].advice == "see connections"


async def test_a_release_waits_for_a_connection(
    limited: Settings, limit: Callable[[int], Awaitable[None]]
) -> None:
    await limit(1)
    async with holding(limited):
        release = await alembic(limited)
        assert release.stderr
        told = await release.stderr.readline()
    _, rest = await release.communicate()

    assert told.startswith(b"Too many connections are open: waiting up to 60 s")
    assert (release.returncode, rest) == (0, b"")


async def test_an_alert_says_who_holds_the_connections_when_none_is_left(
    limited: Settings, limit: Callable[[int], Awaitable[None]]
) -> None:
    await limit(2)
    async with holding(limited), open_resources(limited) as res:
        await look_once(res)
        [alert] = (await list_alerts(res.engine)).alerts

    assert (alert.cause, alert.count) == ("connections", 2)
    assert "2 of 2 are open: holdfast worker 1, others 1" in alert.detail
    assert "DATABASE_POOL_SIZE" in alert.detail


async def test_a_cancelled_caller_passes_its_connection_on(
    limited: Settings, limit: Callable[[int], Awaitable[None]]
) -> None:
    """Cancelled while it waits, or at the moment when it gets one."""
    await limit(1)
    async with open_resources(limited) as res:
        pool = pool_of(res.engine)
        for steps in range(6):
            async with connect(res.engine):
                waiting = [asyncio.create_task(_one(res.engine)) for _ in range(3)]
                for _ in range(20):
                    await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.wait(waiting)
            assert [task.result() for task in waiting[1:]] == [1, 1]

        assert pool.open == 1


async def test_a_cancelled_close_leaves_no_connection_open(database_url: str) -> None:
    """Cancelled before, while or after it closes connections, and while a statement is still running."""
    for steps in range(1, 9):
        engine = create_engine(database_url, pool_size=4, seconds=30)
        async with AsyncExitStack() as stack:
            lent = [await stack.enter_async_context(connect(engine)) for _ in range(4)]
            drivers = [await driver_of(conn) for conn in lent]
        late = asyncio.create_task(run(engine, 30, lambda conn: conn.execute(text("SELECT pg_sleep(0.2)"))))
        await asyncio.sleep(0)
        closing = asyncio.create_task(close_engine(engine))
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing, late})

        assert all(driver.is_closed() for driver in drivers), steps


async def test_a_closed_engine_opens_no_connection(
    limited: Settings, limit: Callable[[int], Awaitable[None]], database: asyncpg.Connection
) -> None:
    """Nobody would close it. A task that waited for a connection may still get one, and that is closed, too."""
    await limit(1)
    async with open_resources(limited) as res:
        async with connect(res.engine):
            waiting = asyncio.create_task(_one(res.engine))
            await asyncio.sleep(0)
            await close_engine(res.engine)
        late = asyncio.create_task(_one(res.engine))
        await asyncio.wait({waiting, late})

        assert error_of(late).code == "database_unavailable"
        assert waiting.exception() is None or error_of(waiting).code == "database_unavailable"

    async def has_none() -> bool:
        return not await sessions(database)

    assert await eventually(has_none)


def error_of(task: asyncio.Task[int]) -> Transient:
    error = task.exception()
    assert isinstance(error, Transient)
    return error


async def _one(engine: object) -> int:
    async with connect(engine) as conn:  # type: ignore[arg-type]
        return int(await conn.scalar(text("SELECT 1")) or 0)


async def test_a_command_uses_one_connection_and_reports_when_there_is_none(
    limited: Settings, limit: Callable[[int], Awaitable[None]], database: asyncpg.Connection
) -> None:
    async with open_resources(limited, COMMAND) as res:
        assert await asyncio.gather(*(_one(res.engine) for _ in range(10))) == [1] * 10
        assert await sessions(database) == {"holdfast command": 1}
        await limit(1)
        limited = limited.model_copy(update={"database_seconds": 3.0})
        async with open_resources(limited, COMMAND) as other:
            with pytest.raises(Transient, match="too many are open") as refused:
                await _one(other.engine)

    assert refused.value.code == TOO_MANY


async def test_usage_is_counted_for_the_limit_that_is_reached_first(
    limited: Settings, limit: Callable[[int], Awaitable[None]], database: asyncpg.Connection
) -> None:
    await limit(5)
    async with open_resources(limited) as res, holding(limited), connect(res.engine) as conn:
        of_role = await usage(conn)
        await database.execute("ALTER DATABASE postgres CONNECTION LIMIT 3")
        try:
            of_database = await usage(conn)
        finally:
            await database.execute("ALTER DATABASE postgres CONNECTION LIMIT -1")

    assert of_role == Usage(5, {"holdfast worker": 1, "others": 1})
    assert (of_role.others, of_role.is_full) == (1, False)
    assert (of_database.limit, of_database.is_full) == (3, True)


@pytest.mark.parametrize(
    ("changes", "now", "ok", "advice"),
    [
        ({}, Usage(20, {}), True, ""),
        ({"web_concurrency": 2}, Usage(20, {"others": 6}), True, ""),
        ({"web_concurrency": 2}, Usage(20, {"others": 7}), False, "set DATABASE_POOL_SIZE=3; or "),
        ({"web_concurrency": 4}, Usage(20, {}), False, "set DATABASE_POOL_SIZE=3; or "),
        ({"web_concurrency": 17}, Usage(20, {}), False, "lower DATABASE_POOL_SIZE or WEB_CONCURRENCY"),
        ({}, Usage(20, {"holdfast web": 13}), False, "set DATABASE_POOL_SIZE=3; or "),  # of two more dynos
        ({}, Usage(20, {"holdfast web": 4, "holdfast worker": 16}), None, "lower DATABASE_POOL_SIZE"),
    ],
)
def test_check_compares_all_pool_sizes_with_the_limit(
    settings: Settings, changes: dict[str, int], now: Usage, advice: str, *, ok: bool | None
) -> None:
    settings = settings.model_copy(update={"web_concurrency": 1, **changes})

    check = judge_connections(settings, 1, now)

    assert check.ok is ok
    assert check.advice.startswith(advice)
    assert bool(check.advice) != bool(ok)
