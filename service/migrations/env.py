"""Run the migrations over the service's own engine, one process at a time, without blocking writers for long."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import asyncpg
from alembic import context
from sqlalchemy import Connection, event, func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.config.reading import read_settings
from service.errors import SettingsError
from service.migrations import revisions
from service.postgres.engine import RELEASE, check_writable, create_engine, is_pooled, reason_of
from service.postgres.operation_tables import TABLES
from service.postgres.pool import TooManyConnections, refusal

# Any fixed number: the process that holds this advisory lock migrates, all others wait for it.
MIGRATION_LOCK = 4_710_023
# While Postgres refuses connections because too many are open, another process may soon close one.
SLOT_SECONDS = 60
CONNECT_SECONDS = SLOT_SECONDS + 20
INDEX_SECONDS = 600

# Later statements queue behind a waiting ALTER TABLE: no write shall wait for a second.
LOCK_SECONDS = 0.5
# A transaction keeps its locks to its end, so no statement in it may read or write a large table.
STATEMENT_SECONDS = 5
PATIENCE_SECONDS = 60
LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED, READ_ONLY = "55P03", "40P01", "25006"

# The oldest transaction that uses our tables; of other users, Postgres may show only the pid.
BLOCKING_SESSION = text("""
    SELECT concat_ws(
        ' ', 'session', pid, '(' || coalesce(nullif(application_name, ''), backend_type) || ')',
        'uses', relation::regclass,
        'in a transaction of ' || date_part('epoch', clock_timestamp() - xact_start)::int || ' s'
    )
    FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
    WHERE granted AND relation::regclass::text = ANY(:tables) AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY xact_start, pid LIMIT 1
""")
# The advisory lock and the limits belong to a session, and PgBouncer may change it after each transaction.
POOLED = (
    "DATABASE_URL: leads to a pooler, migrations need Postgres itself"
    " (if each connection keeps a session of its own: alembic -x pooled=yes upgrade head)"
)
WRITABLE = (
    "DATABASE_URL: this Postgres accepts no writes: point it to the primary, or name all servers in it and add"
    " target_session_attrs=read-write"
)
EXISTING_TABLES = text(
    "SELECT name FROM unnest(CAST(:tables AS text[])) name WHERE to_regclass(name) IS NOT NULL"
)


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=TABLES, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def set_limits(connection: Connection) -> None:
    """Bound the wait for a lock, because the service queues behind it, and the statements that would keep such a lock.

    SET LOCAL has no effect outside a transaction, and so none on CREATE INDEX CONCURRENTLY: that waits for
    long transactions without a limit, and no statement queues behind it.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")


async def acquire_migration_lock(connection: AsyncConnection) -> None:
    """Poll for the advisory lock: CREATE INDEX CONCURRENTLY would wait for a statement that waits for the lock."""
    said = False
    while not await connection.scalar(select(func.pg_try_advisory_lock(MIGRATION_LOCK))):
        await connection.commit()
        if not said:
            say("Another process migrates this database; waiting for it.")
        said = True
        await asyncio.sleep(0.5)
    await connection.commit()


async def may_migrate(connection: AsyncConnection) -> bool:
    """Say whether migrations may be needed; exit if the database is not one that this program can migrate."""
    words = getattr(context.config.cmd_opts, "cmd", [None])[0]  # None if `holdfast migrate` runs this
    command = getattr(words, "__name__", "upgrade")
    try:
        await check_writable(connection)
    except DBAPIError as exc:
        if getattr(exc.orig, "sqlstate", None) != READ_ONLY:
            raise
        raise SettingsError(WRITABLE) from exc
    standing = await revisions.look(connection)
    await connection.commit()
    if command == "stamp" or not standing.is_blocked:
        return True
    say(f"{standing}.")
    if standing.kind == "newer" and command == "upgrade":
        return False
    sys.exit(1)


async def migrate_with_retries(connection: AsyncConnection, patience: float) -> None:
    """Retry while another session holds a lock that we need; finished migrations do not run again."""
    for pause in pauses(patience):
        try:
            await connection.run_sync(migrate)
        except DBAPIError as exc:
            if getattr(exc.orig, "sqlstate", None) not in {LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED}:
                raise
            await connection.rollback()
        else:
            return
        busy = await connection.scalar(BLOCKING_SESSION, {"tables": [*TABLES.tables]})
        await connection.commit()
        say(f"Waiting for a lock: {busy or 'another session held it'}. Trying again in {pause:g} s.")
        await asyncio.sleep(pause)
        await end_autovacuum(connection)
    await connection.run_sync(migrate)


def pauses(patience: float) -> Iterator[float]:
    """Yield growing pauses, in seconds, until the pauses and the attempts have used up the patience."""
    pause = 0.5
    while patience > 0:
        yield min(pause, patience)
        patience -= pause + LOCK_SECONDS
        pause = min(2 * pause, 5)


async def end_autovacuum(connection: AsyncConnection) -> None:
    """End an autovacuum: it only yields to a session that has waited for a second (deadlock_timeout).

    No writer waits behind this lock.
    """
    with suppress(DBAPIError):
        async with connection.begin():
            tables = await connection.scalars(EXISTING_TABLES, {"tables": [*TABLES.tables]})
            await connection.exec_driver_sql("SET LOCAL lock_timeout = '3s'")
            await connection.exec_driver_sql(f"LOCK TABLE {', '.join(tables)} IN SHARE UPDATE EXCLUSIVE MODE")


async def main() -> None:
    settings, patience = read_settings("database_url"), read_patience()
    assert settings.database_url  # noqa: S101 read_settings checks it
    url = settings.database_url.get_secret_value()
    engine = create_engine(
        url, pool_size=1, seconds=SLOT_SECONDS, statement_seconds=INDEX_SECONDS, name=RELEASE
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        connection = await connect_when_possible(engine)
        stack.push_async_callback(connection.close)
        if await is_pooled(connection) and read_option("pooled", "no") != "yes":
            raise SettingsError(POOLED)
        await connection.execution_options(isolation_level="READ COMMITTED")
        # A role may have limits of its own, and an index built beside writers may take longer.
        for limit in ("lock_timeout", "statement_timeout"):
            await connection.exec_driver_sql(f"SET {limit} = 0")
        await acquire_migration_lock(connection)
        if not await may_migrate(connection):
            return
        event.listen(connection.sync_connection, "begin", set_limits)
        await migrate_with_retries(connection, patience)
        await connection.commit()


async def connect_when_possible(engine: AsyncEngine) -> AsyncConnection:
    """Connect; wait up to SLOT_SECONDS while too many connections are open."""
    async with asyncio.timeout(CONNECT_SECONDS):
        connecting = asyncio.create_task(engine.connect().start())
        await asyncio.wait({connecting}, timeout=1)
        if not connecting.done() and refusal():
            say(f"Too many connections are open: waiting up to {SLOT_SECONDS} s for Postgres to give one.")
        return await connecting


def read_patience() -> int:
    """Return the seconds of `-x patience=SECONDS`."""
    if str(getattr(context.config.cmd_opts, "revision", "")).startswith(("+", "-")):
        return 0  # a relative target: a second attempt could go too far
    seconds = read_option("patience", str(PATIENCE_SECONDS))
    if not seconds.isdecimal():
        raise SettingsError("-x patience=SECONDS: must be a whole number")
    return int(seconds)


def read_option(name: str, default: str) -> str:
    """Return the value of `-x name=value`."""
    return str(context.get_x_argument(as_dictionary=True).get(name, default))


def print_sql() -> None:
    """Print the SQL for `--sql`; needs no database."""
    context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def say(message: str) -> None:
    sys.stderr.write(" ".join(message.split()) + "\n")
    sys.stderr.flush()


def end(message: str, status: int) -> None:
    say(message)
    sys.exit(status)


try:
    print_sql() if context.is_offline_mode() else asyncio.run(main())
except SettingsError as exc:
    end(str(exc), 2)
except TooManyConnections as exc:
    end(str(exc), 1)
except TimeoutError:
    end("Postgres cannot be reached, or did not end a statement in ten minutes (check DATABASE_URL)", 1)
except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as exc:
    why = reason_of(exc)
    end(f"Postgres cannot be reached: {why}" + ("" if " " in why else f": {exc} (check DATABASE_URL)"), 1)
except SQLAlchemyError as exc:
    reason, statement = getattr(exc, "orig", None), getattr(exc, "statement", None)
    end(f"Postgres refused: {reason or exc}" + (f" (in: {statement})" if statement else ""), 1)
