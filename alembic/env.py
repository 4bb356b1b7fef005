"""Run the migrations over the service's own engine, one process at a time, with bounded waits."""

import asyncio
import sys
from contextlib import AsyncExitStack

import asyncpg
from sqlalchemy import Connection, event, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from alembic import context
from service.config import SettingsError, read_settings
from service.database import create_engine
from service.models import Base

# Any fixed number: whoever holds this advisory lock migrates, the others wait for it.
MIGRATION_LOCK = 4_710_023
CONNECT_SECONDS = 20


def migrate(connection: Connection) -> None:
    event.listen(connection, "begin", bound_locks)
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def bound_locks(connection: Connection) -> None:
    """Give up soon on a lock behind which the service would wait: sooner than a webhook's 5 s.

    SET LOCAL is without effect outside a transaction, and so on what is built CONCURRENTLY: that
    waits for long transactions as long as it takes, and nobody waits for it.
    """
    connection.exec_driver_sql("SET LOCAL lock_timeout = '3s'")


async def take_turn(connection: AsyncConnection) -> None:
    """Poll for the lock: who waits inside a statement is itself waited for by CREATE INDEX CONCURRENTLY."""
    while not await connection.scalar(select(func.pg_try_advisory_lock(MIGRATION_LOCK))):
        await connection.commit()
        await asyncio.sleep(0.5)
    await connection.commit()


async def main() -> None:
    settings = read_settings("database_url")
    assert settings.database_url  # noqa: S101 read_settings saw to it
    engine = create_engine(settings.database_url.get_secret_value(), pool_size=1, seconds=300)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await stack.enter_async_context(engine.connect())
        await connection.execution_options(isolation_level="READ COMMITTED")
        await take_turn(connection)
        await connection.run_sync(migrate)
        await connection.commit()


def print_sql() -> None:
    """Print what `--sql` asks for; needs no database."""
    context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def end(message: str, status: int) -> None:
    sys.stderr.write(" ".join(message.split()) + "\n")
    sys.exit(status)


try:
    print_sql() if context.is_offline_mode() else asyncio.run(main())
except SettingsError as exc:
    end(str(exc), 2)
except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
    end(f"Postgres cannot be reached: {type(exc).__name__}: {exc}", 1)
except SQLAlchemyError as exc:
    reason, statement = getattr(exc, "orig", None), getattr(exc, "statement", None)
    end(f"Postgres refused: {reason or exc}" + (f" (in: {statement})" if statement else ""), 1)
