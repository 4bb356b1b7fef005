"""Put jobs back: what a dead worker held, what nobody rang, and what a person wants run again."""

import asyncio
import random

import structlog

from service.database import connect
from service.errors import Rejected, Transient
from service.jobs import running, waiting
from service.resources import Resources

BATCH = 100
# Where there is more than one batch, the next follows soon.
MORE_SECONDS = 0.05

log = structlog.get_logger()


async def sweep(res: Resources) -> int:
    """Rescue abandoned jobs and ring what is due; returns how many were rung.

    Needs Postgres alone to know what to do. Any number of workers may sweep at once: each takes
    other rows.
    """
    async with connect(res.engine) as conn:
        rescued = await running.rescue(conn, res.settings.max_retries, BATCH)
        due = await waiting.take_due(conn, BATCH)
    if rescued:
        log.warning("jobs_rescued", jobs=rescued)
    if due:
        await res.dispatcher.ring_now(due)
    return len(due)


async def sweep_for_ever(res: Resources) -> None:
    """Sweep until cancelled."""
    while True:
        try:
            rung = await sweep(res)
        except Transient as exc:
            log.warning("sweep_failed", code=exc.code)
            rung = 0
        pause = res.settings.sweep_seconds * random.uniform(0.5, 1.5)  # noqa: S311 no secret
        await asyncio.sleep(min(pause, MORE_SECONDS) if rung == BATCH else pause)


async def retry(res: Resources, email_id: int) -> None:
    """Run a finished job again with a fresh budget; what is stored is not fetched again.

    Raises Rejected if there is no such e-mail (404) or its job is not finished (409).
    """
    async with connect(res.engine) as conn:
        job = await waiting.retry(conn, email_id)
        status = None if job else await waiting.status_of(conn, email_id)
    if job:
        res.dispatcher.ring(job)
        log.info("email_retried", email=email_id)
    elif status is None:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.")
    else:
        raise Rejected(409, "not_finished", f"E-mail {email_id} is {status}: it will be worked on anyway.")
