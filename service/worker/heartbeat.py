"""The heartbeat of a worker: a row in Postgres with its metrics, and a file for a probe on its machine."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import HoldfastError
from service.postgres.engine import run
from service.postgres.operation_tables import WorkerHeartbeat
from service.resources import Resources, background
from service.telemetry import alive
from service.telemetry.exposition import process_metrics
from service.telemetry.version import full_version

BEAT_SECONDS = 10.0
GOODBYE_SECONDS = 1.0
# Rows of workers that have been silent for this time are removed, some with each beat.
KEPT = timedelta(hours=24)
MOST_REMOVED = 100

log = structlog.get_logger()


@asynccontextmanager
async def beating(res: Resources) -> AsyncIterator[None]:
    """Beat during the block, and record at its end that this worker stopped; a failed write is only logged."""
    name = {"name": res.settings.worker_name, "pid": os.getpid()}
    async with (
        background(lambda: _beat_for_ever(res, name)),
        background(lambda: _beat_locally_for_ever(res.settings.worker_name)),
    ):
        yield
    with suppress(OSError):
        await asyncio.to_thread(alive.end, res.settings.worker_name)
    mine = tuple_(WorkerHeartbeat.name, WorkerHeartbeat.pid) == tuple_(*name.values())
    stopped = update(WorkerHeartbeat).where(mine).values(stopped_at=func.now(), seen_at=func.now(), jobs=0)
    await _write(res, stopped, GOODBYE_SECONDS)


async def _beat_for_ever(res: Resources, name: dict[str, Any]) -> None:
    is_new = True
    known = await asyncio.to_thread(full_version)
    while True:
        text = await asyncio.to_thread(process_metrics)  # it reads files
        row = {**name, "jobs": len(res.claims), "version": known, "metrics": text}
        if await _write(res, _beat(row, is_new=is_new), res.settings.database_seconds):
            is_new = False
        await asyncio.sleep(BEAT_SECONDS)


async def _beat_locally_for_ever(name: str) -> None:
    """Beat for a probe on this machine: it checks that this event loop runs, whatever dependency is down."""
    is_logged = False
    while True:
        try:
            await asyncio.to_thread(alive.beat, name)
        except OSError as exc:
            if not is_logged:
                log.warning("heartbeat_not_written", path=alive.path_of(name), error=exc.strerror)
            is_logged = True
        await asyncio.sleep(alive.BEAT_SECONDS)


async def _write(res: Resources, statement: Any, seconds: float) -> bool:  # noqa: ANN401 any statement without rows
    async def write(conn: AsyncConnection) -> None:
        await conn.execute(statement)

    try:
        await run(res.engine, seconds, write)
    except HoldfastError as exc:
        log.warning("heartbeat_failed", code=exc.code)
        return False
    return True


def _beat(row: dict[str, Any], *, is_new: bool) -> Insert:
    """Build the statement that writes the row of this worker; a new process may have the id of a killed one."""
    table = WorkerHeartbeat.__table__.c
    key = tuple_(table.name, table.pid)
    silent = (
        select(table.name, table.pid)
        .where(table.seen_at < func.now() - KEPT, key != tuple_(row["name"], row["pid"]))
        .limit(MOST_REMOVED)
        .with_for_update(skip_locked=True)
    )
    removed = delete(WorkerHeartbeat).where(key.in_(silent)).returning(table.name).cte("removed")
    began = {"started_at": func.now()} if is_new else {}
    seen = {"seen_at": func.now(), "stopped_at": None}
    beat = insert(WorkerHeartbeat).values(**row)
    news = {name: row[name] for name in ("jobs", "version", "metrics")}
    return beat.on_conflict_do_update(index_elements=["name", "pid"], set_={**news, **seen, **began}).add_cte(
        removed
    )
