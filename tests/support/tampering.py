"""Random changes of rows and objects, with full rights on Postgres and storage, and their undoing."""

import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

# The columns that the log covers, by table.
COVERED = {
    "incoming_emails": ("raw_body", "raw_headers", "received_at", "completed_at", "processing_status"),
    "announcements": ("raw_body", "raw_headers", "received_at", "email_id"),
    "attachments": ("sha256", "size", "position"),
    "messages": ("record_sha256", "record_size", "original_sha256", "original_size", "text", "sent_at"),
    "attempts": ("finished_at", "outcome", "error_code"),
    "operator_actions": ("at", "actor", "action", "email_id", "reason"),
    "evidence_entries": ("kind", "email_id", "salt", "facts", "hash"),
    "evidence_leaves": ("index", "entry_id", "hash"),
    "evidence_nodes": ("hash", "index"),
    "evidence_heads": ("number", "size", "root", "at", "body", "public_key", "signature", "object_key"),
    "evidence_log": ("log_id", "size", "peaks"),
}
# Of these a row can be copied: its key, and the columns that must differ.
COPIED = {
    "incoming_emails": ("id", {"idempotency_key", "signature_hash", "identified"}),
    "announcements": ("id", {"idempotency_key", "signature_hash"}),
    "attachments": ("position", set[str]()),
    "operator_actions": ("id", set[str]()),
    "evidence_leaves": ("index", {"entry_id"}),
    "evidence_heads": ("number", set[str]()),
}
STATES = {
    "processing_status": ("completed", "failed", "queued"),
    "outcome": ("completed", "failed", "released", "handed_back"),
}


@asynccontextmanager
async def kept(database: asyncpg.Connection) -> AsyncIterator[Callable[[str], Any]]:
    """Keep a copy of all tables; yield a function that puts back the table of a change."""
    await database.execute("SET session_replication_role = replica")  # no foreign key stops an intruder
    await database.execute("CREATE SCHEMA kept")
    try:
        for table in COVERED:
            await database.execute(f"CREATE TABLE kept.{table} AS TABLE {table}")

        async def put_back(done: str) -> None:
            table = re.split(r"\W", done)[0]
            await database.execute(
                f"DELETE FROM {table}; INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE kept.{table}"
            )

        yield put_back
    finally:
        await database.execute("DROP SCHEMA kept CASCADE; SET session_replication_role = DEFAULT")


class Intruder:
    """Makes one random change after the other; each returns what it did, or None where it could do nothing."""

    def __init__(self, database: asyncpg.Connection, root: Path, chance: random.Random) -> None:
        self.database, self.root, self.chance = database, root, chance

    async def tamper(self) -> str:
        """Make one change, of any kind."""
        kinds = (
            *[self.change] * 6,
            self.delete,
            self.delete,
            self.copy,
            self.copy,
            self.exchange,
            self.erase,
        )
        while True:
            try:
                async with self.database.transaction():
                    if done := await self.chance.choice(kinds)():
                        return done
            except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError):
                continue  # Postgres refuses it

    async def change(self) -> str | None:
        """Change one value."""
        table = self.chance.choice([*COVERED])
        column = self.chance.choice(COVERED[table])
        row = await self._row(table, f'"{column}" IS NOT NULL')
        if row is None:
            return None
        value = self._other(column, row[column])
        if value == row[column]:
            return None
        await self.database.execute(f'UPDATE {table} SET "{column}" = $1 WHERE ctid = $2', value, row["ctid"])
        return f"{table}.{column}: {row[column]!r} -> {value!r}"

    async def delete(self) -> str | None:
        """Delete a row."""
        table = self.chance.choice([*COVERED])
        row = await self._row(table)
        if row is None or (table == "attempts" and row["outcome"] is None):
            return None
        await self.database.execute(f"DELETE FROM {table} WHERE ctid = $1", row["ctid"])
        return f"{table}: deleted {dict(row)!r}"

    async def copy(self) -> str | None:
        """Insert a row that looks like another one."""
        table = self.chance.choice([*COPIED])
        key, unique = COPIED[table]
        row = await self._row(table)
        if row is None:
            return None
        values = {name: value for name, value in row.items() if name not in {"ctid", "place"}}
        highest = await self.database.fetchval(f'SELECT max("{key}") FROM {table}')
        values[key] = highest + 1
        for name in unique:
            values[name] = self._other(name, values[name]) if values[name] is not None else None
        names = ", ".join(f'"{name}"' for name in values)
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        await self.database.execute(
            f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE VALUES ({places})", *values.values()
        )
        return f"{table}: inserted {key} {values[key]}"

    async def exchange(self) -> str | None:
        """Exchange the values of two rows: an order is changed."""
        table = self.chance.choice([*COVERED])
        column = self.chance.choice(COVERED[table])
        one, two = await self._row(table), await self._row(table)
        if (
            one is None
            or two is None
            or one[column] == two[column]
            or column in {"position", "index", "number"}
        ):
            return None
        statement = f'UPDATE {table} SET "{column}" = $1 WHERE ctid = $2'
        if (table, column) == ("evidence_leaves", "entry_id"):
            await self.database.execute(statement, -1, one["ctid"])
            one_again = await self.database.fetchrow(f"SELECT ctid FROM {table} WHERE entry_id = -1")
            await self.database.execute(statement, one[column], two["ctid"])
            await self.database.execute(statement, two[column], one_again["ctid"])
        else:
            await self.database.execute(statement, two[column], one["ctid"])
            await self.database.execute(statement, one[column], two["ctid"])
        return f"{table}.{column}: exchanged {one[column]!r} and {two[column]!r}"

    async def erase(self) -> str | None:
        """Make an entry look erased."""
        row = await self._row("evidence_entries", "email_id IS NOT NULL AND facts IS NOT NULL")
        await self.database.execute(
            "UPDATE evidence_entries SET salt = NULL, facts = NULL,"
            " hash = (SELECT hash FROM evidence_leaves WHERE entry_id = id) WHERE id = $1",
            row["id"],
        )
        return f"evidence_entries: erased {dict(row)!r}"

    def tamper_with_objects(self) -> tuple[str, Callable[[], None]]:
        """Change, cut or remove an object or a head, or add a head; return how to undo that."""
        paths = sorted(path for path in self.root.rglob("*") if path.is_file() and ".spool" not in path.parts)
        path = self.chance.choice(paths)
        before = path.read_bytes()

        def put_back() -> None:
            path.write_bytes(before)

        kind = self.chance.choice(("flip", "cut", "remove", "add"))
        if kind == "flip":
            path.write_bytes(self._flipped(before))
        elif kind == "cut":
            path.write_bytes(before[:-1])
        elif kind == "remove":
            path.unlink()
        else:
            head = self.chance.choice([each for each in paths if "heads" in each.parts])
            new = head.with_name(f"{self.chance.randrange(100, 10**6):012}.json")
            new.write_bytes(head.read_bytes())
            return f"added {new}", new.unlink
        return f"{kind} {path}", put_back

    async def _row(self, table: str, where: str = "true") -> Any:
        rows = await self.database.fetch(f"SELECT *, ctid FROM {table} WHERE {where}")
        return self.chance.choice(rows) if rows else None

    def _other(self, column: str, value: Any) -> Any:  # noqa: PLR0911 one return for each type
        """Return another value of the same type, as near as possible."""
        if column in STATES:
            return self.chance.choice(STATES[column])
        if column == "raw_headers":
            return value.replace("X-", "Y-", 1)
        match value:
            case bool():
                return False
            case bytes():
                return self._flipped(value) if value else b"x"
            case datetime():
                return value + timedelta(microseconds=self.chance.choice((-1, 1, 10**6, -(10**11), 10**12)))
            case int():
                return value + self.chance.choice((-1, 1, 2, 1000))
        place = self.chance.randrange(len(value)) if value else 0
        return value[:place] + self.chance.choice("0a~") + value[place + 1 :]

    def _flipped(self, content: bytes) -> bytes:
        place = self.chance.randrange(len(content))
        changed = bytes([content[place] ^ 1 << self.chance.randrange(8)])
        return content[:place] + changed + content[place + 1 :]
