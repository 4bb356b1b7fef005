"""Run the migrations over the service's own engine, one process at a time, with bounded waits."""

import asyncio
import sys

from sqlalchemy import Connection, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from alembic import context
from service.config import SettingsError, read_settings
from service.database import create_engine
from service.models import Base

# Any fixed number: whoever holds this advisory lock migrates, the others wait for it.
MIGRATION_LOCK = 4_710_023


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def take_turn(connection: AsyncConnection) -> None:
    """Poll for the lock: who waits inside a statement is itself waited for by CREATE INDEX CONCURRENTLY."""
    while not await connection.scalar(select(func.pg_try_advisory_lock(MIGRATION_LOCK))):
        await connection.commit()
        await asyncio.sleep(0.5)


async def main() -> None:
    settings = read_settings("database_url")
    assert settings.database_url  # noqa: S101 read_settings saw to it
    engine = create_engine(settings.database_url.get_secret_value(), pool_size=1, seconds=300)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        await take_turn(connection)
        # A migration that cannot get its lock soon must not make the running service wait behind it.
        await connection.execute(text("SET lock_timeout = '10s'"))
        await connection.commit()
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


try:
    asyncio.run(main())
except SettingsError as exc:
    sys.stderr.write(f"{exc}\n")
    sys.exit(2)
