"""The query plans of an operation's statements."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from benchmarks.growth_database import Database, Operation

Node = dict[str, Any]
_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) "
_EXPLAINED = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")


async def plans(db: Database, operation: Operation) -> list[Node]:
    """Run an operation, and EXPLAIN ANALYZE each of its statements just before it; roll everything back."""
    found: list[Node] = []

    def explain(conn: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:  # noqa: ANN401 as SQLAlchemy calls it
        if not statement.lstrip().startswith(_EXPLAINED):
            return
        # The statement of an operation without a transaction changes nothing.
        is_open = conn.get_execution_options().get("isolation_level") == "READ COMMITTED"
        if is_open:
            conn.exec_driver_sql("SAVEPOINT before")
        made = conn.exec_driver_sql(_EXPLAIN + statement, parameters).scalar_one()
        if is_open:
            conn.exec_driver_sql("ROLLBACK TO before")
        [explained] = json.loads(made) if isinstance(made, str) else made
        found.append(explained["Plan"])

    event.listen(db.engine.sync_engine, "before_cursor_execute", explain)
    try:
        await operation()
    finally:
        event.remove(db.engine.sync_engine, "before_cursor_execute", explain)
        await db.conn.rollback()
    return found


async def generic_plans(db: Database, operation: Operation) -> list[Node]:
    """Run an operation, and return the generic plans of its statements, which ignore their parameters."""
    with _statements(db) as sent:
        await operation()
    await db.conn.rollback()
    found = []
    driver: Any = (await db.conn.get_raw_connection()).driver_connection
    await driver.execute("SET plan_cache_mode = force_generic_plan")
    for statement, parameters in sent:
        if not statement.lstrip().startswith(_EXPLAINED):
            continue
        await driver.execute(f"PREPARE probe AS {statement}")
        values = f"({', '.join(['NULL'] * len(parameters))})" if parameters else ""
        plan = await driver.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE probe {values}")
        found.append(plan[0]["Plan"])
        await driver.execute("DEALLOCATE probe")
    return found


def nodes(node: Node) -> Iterator[Node]:
    """Yield a plan's node and all nodes below it."""
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


def pages(plan: Node) -> int:
    """Return the number of page reads, of 8 kB each, in tables and indexes."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@contextmanager
def _statements(db: Database) -> Iterator[list[tuple[str, Any]]]:
    sent: list[tuple[str, Any]] = []

    def note(*sending: Any) -> None:  # noqa: ANN401 as SQLAlchemy calls it
        sent.append((sending[2], sending[3]))

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(db.engine.sync_engine, "before_cursor_execute", note)
