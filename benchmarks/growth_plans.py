"""The query plans of an operation's statements."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from benchmarks.growth_operations import Database, Operation

Node = dict[str, Any]


async def plans(db: Database, operation: Operation) -> list[Node]:
    """Run an operation, then EXPLAIN ANALYZE each of its statements; roll everything back."""
    with _statements(db) as sent:
        await operation()
    await db.conn.rollback()
    found = []
    for statement, parameters in sent:
        explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
        plan = (await db.conn.exec_driver_sql(explain, parameters)).scalar_one()
        [explained] = json.loads(plan) if isinstance(plan, str) else plan
        found.append(explained["Plan"])
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
