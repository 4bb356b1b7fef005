"""The worker processes: alive, silent or stopped."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.operation_tables import WorkerHeartbeat
from service.postgres.rows import brief
from service.queries.views import View

SILENT_AFTER = timedelta(seconds=60)
MAX_SHOWN = 50


class WorkerView(View):
    """A worker process according to its last heartbeat."""

    name: str
    pid: int
    state: Literal["alive", "silent", "stopped"]
    started_at: datetime
    seen_at: datetime
    seen_seconds_ago: float
    jobs: int
    version: str


async def workers_of(conn: AsyncConnection) -> Sequence[WorkerView]:
    """Return the workers of the last day, newest heartbeat first, stopped workers last."""
    worker = WorkerHeartbeat.__table__.c
    silent = worker.seen_at < func.now() - SILENT_AFTER
    state = case((worker.stopped_at.is_not(None), "stopped"), (silent, "silent"), else_="alive")
    ago = func.extract("epoch", func.now() - worker.seen_at)
    columns = brief(worker["name", "pid", "started_at", "seen_at", "jobs", "version"])
    query = (
        select(*columns, state.label("state"), ago.label("seen_seconds_ago"))
        .where(worker.seen_at > func.now() - timedelta(days=1))
        .order_by(worker.stopped_at.is_not(None), worker.seen_at.desc())
    )
    return [WorkerView.model_validate(row) for row in await conn.execute(query.limit(MAX_SHOWN))]


async def metrics_of_workers(conn: AsyncConnection) -> dict[str, str]:
    """Return the last metrics of each alive worker, in Prometheus' text format, by `name:pid`."""
    worker = WorkerHeartbeat.__table__.c
    alive = (
        select(worker.name, worker.pid, func.coalesce(worker.metrics, ""))
        .where(worker.stopped_at.is_(None), worker.seen_at >= func.now() - SILENT_AFTER)
        .order_by(worker.seen_at.desc())
    )
    rows = await conn.execute(alive.limit(MAX_SHOWN))
    return {f"{name}:{pid}": text for name, pid, text in rows}
