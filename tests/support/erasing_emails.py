"""What is left of an erased e-mail: in each table, and in the storage."""

from pathlib import Path

import asyncpg

from service.postgres.operation_tables import TABLES


async def tables_with(database: asyncpg.Connection, content: str) -> list[str]:
    """Return the tables that contain a text, as text or as bytes."""
    found = []
    for table in TABLES.sorted_tables:
        patterns = [f"%{content}%", f"%{content.encode().hex()}%"]
        query = f"SELECT count(*) FROM {table.name} AS row WHERE CAST(row AS text) LIKE ANY ($1)"
        if await database.fetchval(query, patterns):
            found.append(table.name)
    return found


def objects_with(storage_url: str, content: str) -> set[str]:
    """Return the keys of the objects that contain a text."""
    root = Path(storage_url.removeprefix("file://"))
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and content.encode() in path.read_bytes()
    }
