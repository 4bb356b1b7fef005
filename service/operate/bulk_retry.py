"""Run all e-mails again that match a filter, or only their syncs: planned, then step by step by whichever worker is there."""

import asyncio
from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected, Transient
from service.jobs import bulk_retries
from service.jobs.bulk_retries import BulkRetryStep
from service.jobs.retries import FINISHED_STATES
from service.jobs.waiting import Job, Sync
from service.postgres.email_tables import NOT_CAPTURED
from service.postgres.engine import connect, run
from service.postgres.search import Count, Place, count, walk
from service.postgres.selection import Selection, What
from service.resources import Resources

PER_SECOND = 50  # unless told otherwise
MOST_PER_SECOND = 1000
# Rows that one step looks at, of those that a filter's index does not tell apart.
EXAMINED = 5_000
# How long a worker that took a step may take for it, before another one does.
STEP_LEASE = timedelta(seconds=30)
LOOK_SECONDS = 1.0
# While one is on its way.
SOON_SECONDS = 0.2

log = structlog.get_logger()


async def plan(res: Resources, wanted: Selection, what: What = "job") -> Count:
    """Count what would be run again.

    Raises Rejected for e-mails that are not finished (422), or where there is nothing to sync with (409).
    """
    meant = _meant(res, wanted, what)
    async with connect(res.engine) as conn:
        return await count(conn, meant, finished=True)


async def start(res: Resources, wanted: Selection, per_second: int, actor: str, what: What = "job") -> int:
    """Begin to run again what matches, and was finished before now; return the id of this retry of many.

    At most `per_second` e-mails are queued in a second. Raises as `plan` does.
    """
    planned = await plan(res, wanted, what)
    async with connect(res.engine) as conn:
        bulk_retry_id = await bulk_retries.begin(
            conn,
            what,
            actor=actor,
            filter=_meant(res, wanted, what).model_dump(mode="json", exclude_none=True),
            per_second=per_second,
            planned=planned.number,
            planned_capped=planned.is_capped,
        )
    log.info("bulk_retry_begun", bulk_retry=bulk_retry_id, what=what, planned=planned.number)
    return bulk_retry_id


async def cancel(res: Resources, bulk_retry_id: int, actor: str) -> None:
    """Queue no more of it; raises Rejected if there is none (404), or it is over (409)."""
    async with connect(res.engine) as conn:
        if await bulk_retries.cancel(conn, bulk_retry_id, actor):
            return
        if (status := await bulk_retries.status_of(conn, bulk_retry_id)) is None:
            raise Rejected(404, "bulk_retry_not_found", f"There is no retry of many {bulk_retry_id}.")
    raise Rejected(409, "not_running", f"The retry of many {bulk_retry_id} is {status} already.")


async def step(res: Resources) -> bool:
    """Take one step of a retry of many, if one is due; False where none was."""

    async def take(conn: AsyncConnection) -> list[Job] | list[Sync] | None:
        if (bulk := await bulk_retries.claim_step(conn, STEP_LEASE)) is None:
            return None
        after = None if bulk.place_id is None else Place(bulk.place_time, bulk.place_id)
        way = walk(Selection.model_validate(bulk.filter), after, EXAMINED, finished_before=bulk.created_at)
        here = BulkRetryStep(bulk.id, bulk.actor, bulk.place_id)
        found, stop = way.found(bulk.per_second), way.stop(bulk.per_second)
        return await bulk_retries.retry_next(conn, here, bulk.what, found, stop)

    taken = await run(res.engine, res.settings.database_seconds, take)
    for each in taken or ():
        res.dispatcher.dispatch(each)
    return taken is not None


async def step_for_ever(res: Resources) -> None:
    """Take steps as they fall due, until cancelled."""
    pause = LOOK_SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            pause = SOON_SECONDS if await step(res) else min(2 * pause, LOOK_SECONDS)
        except Transient as exc:
            log.warning("bulk_retry_failed", code=exc.code)


def _meant(res: Resources, wanted: Selection, what: What) -> Selection:
    """Say it all: without a word about it, jobs that failed are meant, or all that is not synced and not on its way.

    E-mails whose files were not captured are completed as well as failed.
    """
    if wanted.status not in {None, *FINISHED_STATES}:
        raise Rejected(422, "not_finished", f"What is {wanted.status} will be worked on anyway.")
    if what == "sync":
        if not res.settings.sync_url:
            raise Rejected(409, "sync_off", "There is nothing to sync with: SYNC_URL is not set.")
        return wanted if wanted.sync_status else wanted.model_copy(update={"sync_status": "unsynced"})
    is_whole = wanted.status or wanted.error_code == NOT_CAPTURED
    return wanted if is_whole else wanted.model_copy(update={"status": "failed"})
