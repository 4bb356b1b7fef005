"""A frequent statement of asyncpg behaves as if SQLAlchemy ran it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest
from sqlalchemy import BigInteger, Text, bindparam, func, insert, literal, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.config.settings import Settings
from service.errors import Permanent
from service.jobs.arrival import Arrival, receive
from service.jobs.attachments import files_of
from service.jobs.email_words import load_texts
from service.postgres import engine as postgres_engine
from service.postgres.engine import close_engine, connect, create_engine, driver_of, run, transaction
from service.postgres.prepared import Prepared
from service.postgres.source_tables import SigningSecret
from tests.conftest import eventually

ADD = Prepared(
    insert(SigningSecret)
    .values(account=bindparam("account", type_=Text), webhook_id=literal("one"), encrypted=literal(b"x"))
    .returning(SigningSecret.account, SigningSecret.webhook_id)
)
ALL = Prepared(
    select(SigningSecret.__table__).where(SigningSecret.account != bindparam("account", type_=Text))
)
SLEEP = Prepared(select(func.pg_sleep(bindparam("seconds", type_=BigInteger))))


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    assert settings.database_url
    engine = create_engine(settings.database_url.get_secret_value(), pool_size=1, seconds=30)
    yield engine
    await close_engine(engine)


async def test_statement_is_a_transaction_of_its_own_and_takes_its_fixed_values(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    async with connect(engine) as conn:
        rows = [tuple(row) for row in await ADD.fetch(conn, {"account": "a"})]

        assert rows == [("a", "one")]
        assert await database.fetchval("SELECT encrypted FROM signing_secrets") == b"x"


async def test_postgres_keeps_the_plan_of_a_statement_with_rows(engine: AsyncEngine) -> None:
    """Postgres plans each statement five times, and goes on with that only if the generic plan looks dearer."""
    async with connect(engine) as conn:
        for number in range(8):
            columns = {"zendesk_ticket_id": "1", "idempotency_key": f"plan {number}", "raw_body": b"{}"}
            (recorded,) = await receive(conn, [Arrival(columns)])
            await files_of(conn, [recorded.email_id])
            await load_texts(conn, [recorded.email_id])
        known = await (await driver_of(conn)).fetch(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement ~ 'incoming_emails|attachments'"
        )

    assert [tuple(each) for each in known] == [(5, 3)] * 3


async def test_a_statement_that_cannot_be_prepared_is_refused(engine: AsyncEngine) -> None:
    """It would fail each time, and then run in the slow way."""
    column = SigningSecret.__table__.c.account
    async with connect(engine) as conn:
        with pytest.raises(TypeError, match="IN"):
            await Prepared(select(column).where(column.in_(["a", "b"]))).fetch(conn, {})


async def test_an_old_statement_is_prepared_again_in_place_of_the_first(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    async with connect(engine) as conn:
        for seconds in (30.0, 30.0, 0.0):
            monkeypatch.setattr(postgres_engine, "PLAN_SECONDS", seconds)
            await ALL.fetch(conn, {"account": "a"})
            driver = await driver_of(conn)
            query = "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%signing_secrets%'"
            names.append([row["name"] for row in await driver.fetch(query)])

    assert names[0] == names[1]
    assert len(names[2]) == 1
    assert names[2] != names[1]


async def test_statement_within_a_transaction_is_undone_with_it(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    async with connect(engine) as conn:
        await ADD.fetch(conn, {"account": "prepared in this session"})
        with suppress(ZeroDivisionError):
            async with transaction(conn):
                await ADD.fetch(conn, {"account": "undone"})
                raise ZeroDivisionError

    assert await database.fetchval("SELECT count(*) FROM signing_secrets") == 1


async def test_refused_value_is_permanent_and_the_session_stays(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    async with connect(engine) as conn:
        before = await driver_of(conn)
    with pytest.raises(Permanent):
        await run(engine, 30, lambda conn: ADD.fetch(conn, {"account": "\0"}))
    with pytest.raises(Permanent):
        await run(engine, 30, lambda conn: ADD.fetch(conn, {"account": 1}))
    await run(engine, 30, lambda conn: ADD.fetch(conn, {"account": "a"}))

    async with connect(engine) as conn:
        assert await driver_of(conn) is before


async def test_session_that_the_server_ended_is_replaced(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    await run(engine, 30, lambda conn: ADD.fetch(conn, {"account": "before"}))
    async with connect(engine) as conn:
        pid = (await driver_of(conn)).get_server_pid()
    await database.fetchval("SELECT pg_terminate_backend($1, 10000)", pid)
    await run(engine, 30, lambda conn: ADD.fetch(conn, {"account": "after"}))

    assert await database.fetchval("SELECT array_agg(account) FROM signing_secrets") == ["before", "after"]


async def test_cancelled_statement_leaves_a_pool_that_works(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    sleeping = asyncio.create_task(run(engine, 30, lambda conn: SLEEP.fetch(conn, {"seconds": 25})))
    is_asleep = "SELECT true FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    await eventually(lambda: database.fetchval(is_asleep))
    sleeping.cancel()
    await asyncio.wait({sleeping})
    await run(engine, 30, lambda conn: ADD.fetch(conn, {"account": "a"}))

    assert await database.fetchval("SELECT count(*) FROM signing_secrets") == 1


async def test_statement_is_prepared_again_for_changed_tables(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    async with connect(engine) as conn:
        await ADD.fetch(conn, {"account": "a"})
        await ALL.fetch(conn, {"account": "b"})
        await database.execute("ALTER TABLE signing_secrets ALTER encrypted TYPE text USING 'y'")
        try:
            (row,) = await ALL.fetch(conn, {"account": "b"})
        finally:
            await database.execute("ALTER TABLE signing_secrets ALTER encrypted TYPE bytea USING 'x'")

    assert "y" in tuple(row)


async def statements_of(conn: AsyncConnection, table: str) -> int:
    """Count the prepared statements of a table in the session; the driver closes others when it prepares one."""
    driver = await driver_of(conn)
    await driver.prepare("SELECT")
    kept = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%' || $1 || '%' AND name LIKE 'holdfast%'"
    return int(await driver.fetchval(kept, table))


async def test_refused_values_leave_the_prepared_statement(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    """Whether Postgres refuses them or its driver."""
    async with connect(engine) as conn:
        kept = []
        for account in ["a", "a", "a", "\0", "\0", 1, 1, "b"]:
            with suppress(DBAPIError):
                await ADD.fetch(conn, {"account": account})
            kept.append(await statements_of(conn, "signing_secrets"))

    assert max(kept) <= 2, "ours, and one of SQLAlchemy"


async def test_statement_that_failed_is_closed_before_its_error_is_forgotten(
    engine: AsyncEngine, database: asyncpg.Connection
) -> None:
    """As here while another transaction has the row."""
    errors, kept = [], []
    async with connect(engine) as conn, database.transaction():
        await database.execute("INSERT INTO signing_secrets VALUES ('a', 'one', 'x', now())")
        await (await driver_of(conn)).execute("SET lock_timeout = '10ms'")
        for _ in range(4):
            try:
                await ADD.fetch(conn, {"account": "a"})
            except DBAPIError as exc:
                errors.append(exc)
            kept.append(await statements_of(conn, "signing_secrets"))

    assert [getattr(error.orig, "sqlstate", None) for error in errors] == ["55P03"] * 4
    assert max(kept) <= 2, "ours, and one of SQLAlchemy"
