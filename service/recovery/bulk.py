"""Run all e-mails again that match a filter: planned first, then step by step, by whichever worker is there."""

import asyncio
from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database import connect, run
from service.errors import Rejected, Transient
from service.jobs import again
from service.jobs.waiting import Job
from service.resources import Resources
from service.selection import Selection
from service.walk import Count, Place, count, walk

PER_SECOND = 50  # unless told otherwise
MOST_PER_SECOND = 1000
# Rows that one step looks at, of those that a filter's index does not tell apart.
EXAMINED = 5_000
# How long a worker that took a step may take for it, before another one does.
PATIENCE = timedelta(seconds=30)
LOOK_SECONDS = 1.0
# While one is on its way.
SOON_SECONDS = 0.2

log = structlog.get_logger()


async def plan(res: Resources, wanted: Selection) -> Count:
    """Count what would be run again; raises Rejected (422) for e-mails that are not finished."""
    async with connect(res.engine) as conn:
        return await count(conn, _finished(wanted))


async def start(res: Resources, wanted: Selection, per_second: int, actor: str) -> int:
    """Begin to run again what matches, and was finished before now; return the id of this retry of many.

    At most `per_second` e-mails are queued in a second. Raises as `plan` does.
    """
    planned = await plan(res, wanted)
    async with connect(res.engine) as conn:
        bulk_retry_id = await again.begin(
            conn,
            actor=actor,
            filter=_finished(wanted).model_dump(mode="json", exclude_none=True),
            per_second=per_second,
            planned=planned.number,
            planned_capped=planned.is_capped,
        )
    log.info("bulk_retry_begun", bulk_retry=bulk_retry_id, planned=planned.number)
    return bulk_retry_id


async def cancel(res: Resources, bulk_retry_id: int, actor: str) -> None:
    """Queue no more of it; raises Rejected if there is none (404), or it is over (409)."""
    async with connect(res.engine) as conn:
        if await again.cancel(conn, bulk_retry_id, actor):
            return
        if (status := await again.status_of_bulk(conn, bulk_retry_id)) is None:
            raise Rejected(404, "bulk_retry_not_found", f"There is no retry of many {bulk_retry_id}.")
    raise Rejected(409, "not_running", f"The retry of many {bulk_retry_id} is {status} already.")


async def step(res: Resources) -> bool:
    """Take one step of a retry of many, if one is due; False where none was."""

    async def take(conn: AsyncConnection) -> list[Job] | None:
        if (bulk := await again.take_bulk(conn, PATIENCE)) is None:
            return None
        after = None if bulk.place_id is None else Place(bulk.place_time, bulk.place_id)
        way = walk(Selection.model_validate(bulk.filter), after, EXAMINED, finished_before=bulk.created_at)
        here = again.Step(bulk.id, bulk.actor, bulk.place_id)
        return await again.retry_next(conn, here, way.found(bulk.per_second), way.stop(bulk.per_second))

    jobs = await run(res.engine, res.settings.database_seconds, take)
    for job in jobs or ():
        res.dispatcher.ring(job)
    return jobs is not None


async def step_for_ever(res: Resources) -> None:
    """Take steps as they fall due, until cancelled."""
    pause = LOOK_SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            pause = SOON_SECONDS if await step(res) else min(2 * pause, LOOK_SECONDS)
        except Transient as exc:
            log.warning("bulk_retry_failed", code=exc.code)


def _finished(wanted: Selection) -> Selection:
    if wanted.status in {None, *again.FINISHED}:
        return wanted if wanted.status else wanted.model_copy(update={"status": "failed"})
    raise Rejected(422, "not_finished", f"What is {wanted.status} will be worked on anyway.")
