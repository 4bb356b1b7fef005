"""The sweep of jobs: take back abandoned ones, and start or dispatch due ones."""

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.config.settings import Settings
from service.errors import HoldfastError
from service.jobs import attempts, waiting
from service.jobs.retries import retry_malware
from service.jobs.waiting import Job
from service.postgres.engine import refused_row
from service.queue.dispatch import job_id
from service.resources import Resources
from service.telemetry.metrics import SWEEPS, SWEPT

BATCH = 100
# After a batch that found due rows, more may be due.
MORE_SECONDS = 0.05
_MALWARE_SECONDS = 300

log = structlog.get_logger()


class WorkerLoop(Protocol):
    """Starts attempts in this process, without Redis."""

    @property
    def free_slots(self) -> int: ...
    def room_for(self, abandoned: int) -> int: ...
    def start_attempt(self, job_id: str, email_id: int, attempt_number: int, abandoned: int = 0) -> None: ...


async def sweep(res: Resources, worker: WorkerLoop | None = None) -> int:
    """Take back abandoned jobs, start due jobs here, and dispatch the rest; return how many were due.

    Needs Postgres alone. Any number of workers may sweep at once: each takes different rows. Suspects (jobs whose last
    attempt was abandoned) are never dispatched, only started here, as many as `worker` has room for.
    """
    free = worker.free_slots if worker else 0
    # While Redis is unreachable, take no more jobs than this process can start.
    most = BATCH if res.dispatcher.reachable else free

    async def take(conn: AsyncConnection) -> tuple[int, list[Job], tuple[int, list[Job]]]:
        taken_back = await _take_back(conn, res.settings)
        due = await waiting.take_due(conn, most) if most else []
        return taken_back, due, await _take_suspects(conn, worker) if worker else (0, [])

    taken_back, due, (abandoned, suspects) = await res.run(take)
    SWEEPS.labels("done").inc()
    SWEPT.inc(len(due) + len(suspects))
    if taken_back:
        log.warning("abandoned_jobs_taken_back", jobs=taken_back)
    for place, job in enumerate(due):
        if worker and place < free:
            worker.start_attempt(job_id(job), job.email_id, job.attempt_number)
        else:
            res.dispatcher.dispatch(job)
    if worker:
        for job in suspects:
            worker.start_attempt(job_id(job), job.email_id, job.attempt_number, abandoned)
    return len(due) + len(suspects)


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


async def retry_malware_for_ever(res: Resources) -> None:
    """Look daily whether Zendesk gives out a file with malware by now; runs until cancelled."""
    while True:
        await asyncio.sleep(_MALWARE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 no secret
        with suppress(HoldfastError):  # the next pass finds the same e-mails
            for job in await res.run(partial(retry_malware, limit=BATCH)):
                res.dispatcher.dispatch(job)


async def _take_back(conn: AsyncConnection, settings: Settings) -> int:
    """Take back abandoned jobs in one statement; where Postgres refuses a row, take back the others one by one."""
    try:
        return await attempts.take_back(conn, BATCH, settings.lease, settings.sync_status)
    except DBAPIError as exc:
        if refused_row(exc) is None:
            raise
    taken_back = 0
    for email_id in await attempts.expired(conn, BATCH):
        try:
            taken_back += await attempts.take_back_one(conn, email_id, settings.lease, settings.sync_status)
        except DBAPIError as exc:
            if not (why := refused_row(exc)):
                raise
            log.warning("abandoned_job_not_taken_back", email=email_id, code=why.code, reason=why.message)
    return taken_back


async def _take_suspects(conn: AsyncConnection, worker: WorkerLoop) -> tuple[int, list[Job]]:
    """Take the suspects that are due for longest, as far as there is room, and how often they were abandoned.

    If they must not run beside the suspects that run here, no other suspect is taken either: they start once those have
    ended.
    """
    abandoned = await waiting.next_abandoned_count(conn)
    room = worker.room_for(abandoned) if abandoned else 0
    return abandoned or 0, await waiting.take_suspects(conn, abandoned or 0, room) if room else []
