"""Put jobs back by the clock: what a dead worker held, and what nobody rang."""

import asyncio
import random
from typing import Protocol

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.config.settings import Settings
from service.errors import HoldfastError
from service.jobs import attempts, waiting
from service.jobs.waiting import Job
from service.postgres.engine import refused_row, run
from service.queue.dispatch import job_id
from service.resources import Resources
from service.telemetry.metrics import SWEEPS, SWEPT

BATCH = 100
# Where something was due, more may be.
MORE_SECONDS = 0.05

log = structlog.get_logger()


class WorkerLoop(Protocol):
    """Starts attempts in this process, without Redis."""

    @property
    def free_slots(self) -> int: ...
    def room_for(self, abandoned: int) -> int: ...
    def start_attempt(self, job_id: str, email_id: int, attempt_number: int, abandoned: int = 0) -> None: ...


async def sweep(res: Resources, worker: WorkerLoop | None = None) -> int:
    """Rescue abandoned jobs, start on what is due, and ring the rest; returns how many were due.

    Needs Postgres alone. Any number of workers may sweep at once: each takes other rows. Suspects (jobs whose last
    attempts were abandoned) are never rung, only started here, as many as `worker` lets run at once.
    """
    free = worker.free_slots if worker else 0
    # While Redis cannot be rung, no more than can be worked on here.
    most = BATCH if res.dispatcher.reachable else free

    async def look(conn: AsyncConnection) -> tuple[int, list[Job], tuple[int, list[Job]]]:
        settings = res.settings
        rescued = await _rescue(conn, settings)
        due = await waiting.take_due(conn, most) if most else []
        return rescued, due, await _suspects(conn, worker) if worker else (0, [])

    rescued, due, (abandoned, suspects) = await run(res.engine, res.settings.database_seconds, look)
    SWEEPS.labels("done").inc()
    SWEPT.inc(len(due) + len(suspects))
    if rescued:
        log.warning("jobs_rescued", jobs=rescued)
    for place, job in enumerate(due):
        if worker and place < free:
            worker.start_attempt(job_id(job), job.email_id, job.attempt_number)
        else:
            res.dispatcher.dispatch(job)
    if worker:
        for job in suspects:
            worker.start_attempt(job_id(job), job.email_id, job.attempt_number, abandoned)
    return len(due) + len(suspects)


async def _rescue(conn: AsyncConnection, settings: Settings) -> int:
    """Rescue what expired, together; one by one where Postgres refuses a row, which then stays as it is."""
    try:
        return await attempts.take_back(conn, BATCH, settings.lease, settings.sync_status)
    except DBAPIError as exc:
        if refused_row(exc) is None:
            raise
    rescued = 0
    for email_id in await attempts.expired(conn, BATCH):
        try:
            rescued += await attempts.take_back_one(conn, email_id, settings.lease, settings.sync_status)
        except DBAPIError as exc:
            if not (why := refused_row(exc)):
                raise
            log.warning("rescue_refused", email=email_id, code=why.code, reason=why.message)
    return rescued


async def _suspects(conn: AsyncConnection, worker: WorkerLoop) -> tuple[int, list[Job]]:
    """Take the suspects that are due for longest, with how often they were abandoned, as far as there is room.

    Where they must not run beside the suspects that run here, no other suspect is taken either: their turn comes
    when those have ended.
    """
    abandoned = await waiting.next_abandoned_count(conn)
    room = worker.room_for(abandoned) if abandoned else 0
    return abandoned or 0, await waiting.take_suspects(conn, abandoned or 0, room) if room else []


async def sweep_for_ever(res: Resources, worker: WorkerLoop) -> None:
    """Sweep until cancelled."""
    while True:
        try:
            due = await sweep(res, worker)
        except HoldfastError as exc:
            SWEEPS.labels("failed").inc()
            log.warning("sweep_failed", code=exc.code)
            due = 0
        pause = res.settings.sweep_seconds * random.uniform(0.5, 1.5)  # noqa: S311 no secret
        await asyncio.sleep(min(pause, MORE_SECONDS) if due else pause)
