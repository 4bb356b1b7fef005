"""The columns that this version needs, and those that the database lacks."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.operation_tables import TABLES

_COLUMNS = text("""
    SELECT relname || '.' || attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE attrelid = ANY(SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) name)
    AND attnum > 0 AND NOT attisdropped
""")


async def lacking_columns(connection: AsyncConnection) -> Sequence[str]:
    """Return the columns that the database lacks, as table.column, by the catalog alone."""
    there = {*(await connection.scalars(_COLUMNS, {"tables": [*TABLES.tables]}))}
    needed = [str(column) for table in TABLES.tables.values() for column in table.c]
    return [column for column in needed if column not in there]
