"""Bulk retry: retry or dismiss all e-mails that match a filter, or only sync them, in steps that any worker takes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.jobs import bulk_retries, dismissals
from service.jobs.bulk_retries import BulkRetryStep
from service.jobs.waiting import Job, Sync
from service.operate import bulk_webhooks
from service.operate.retry import check_finished, check_has_target
from service.postgres.email_tables import NOT_CAPTURED
from service.postgres.engine import connect
from service.postgres.search import Count, Cursor, count, search
from service.postgres.selection import RETRY, BulkTask, Selection, cleaned_reason
from service.resources import Resources, repeat_steps

PER_SECOND = 50  # by default
MOST_PER_SECOND = 1000
# Rows that one step examines, where no index matches the filter.
EXAMINED = 5_000
# After this time another worker may claim the same step.
STEP_LEASE = timedelta(seconds=30)
IDLE_SECONDS = 1.0
# The pause while a bulk retry is running.
SOON_SECONDS = 0.2

log = structlog.get_logger()


async def plan(res: Resources, wanted: Selection, task: BulkTask = RETRY) -> Count:
    """Count the e-mails that would be retried or dismissed.

    Raises Rejected for a status that is not finished (422), where there is no target, or for a dismissal of e-mails that
    did not fail (409).
    """
    wanted = _without_dismissed(completed(res, wanted, task), task)
    async with connect(res.engine) as conn:
        if task.action == "dismiss" and wanted.email_ids is not None:
            failed = await dismissals.failed_among(conn, wanted.email_ids)
            wanted = wanted.model_copy(update={"ids": ",".join(map(str, failed)) or "0"})
        return await count(conn, wanted, finished=True)


async def start(
    res: Resources, wanted: Selection, per_second: int, actor: str, task: BulkTask = RETRY
) -> int:
    """Begin with the matching e-mails that finished before now; return the id of the bulk retry.

    At most `per_second` e-mails are queued, or dismissed, in a second. Raises as `plan` does, and for a dismissal
    without a reason (409).
    """
    if task.action == "dismiss":
        task = replace(task, reason=cleaned_reason(task.reason))
    planned = await plan(res, wanted, task)
    async with connect(res.engine) as conn:
        bulk_retry_id = await bulk_retries.begin(
            conn,
            task,
            actor=actor,
            filter=completed(res, wanted, task).model_dump(mode="json", exclude_none=True),
            per_second=per_second,
            planned=planned.number,
            planned_capped=planned.is_capped,
        )
    what = {"bulk_retry": bulk_retry_id, "action": task.action, "what": task.what}
    log.info("bulk_retry_begun", **what, planned=planned.number)
    return bulk_retry_id


async def cancel(res: Resources, bulk_retry_id: int, actor: str) -> None:
    """Retry no more e-mails; raises Rejected if there is no such bulk retry (404), or it has ended (409)."""
    async with connect(res.engine) as conn:
        if await bulk_retries.cancel(conn, bulk_retry_id, actor):
            return
        if (status := await bulk_retries.status_of(conn, bulk_retry_id)) is None:
            raise Rejected(404, "bulk_retry_not_found", f"There is no bulk retry {bulk_retry_id}.")
    raise Rejected(409, "not_running", f"Bulk retry {bulk_retry_id} is {status} already.")


async def step(res: Resources) -> bool:
    """Take one step of a bulk retry that is due; return whether there was one."""

    async def take(conn: AsyncConnection) -> list[Job] | list[Sync] | Row[Any] | None:
        if (bulk := await bulk_retries.claim_step(conn, STEP_LEASE)) is None:
            return None
        if bulk.what == "webhook":
            return bulk
        after = None if bulk.place_id is None else Cursor(bulk.place_time, bulk.place_id)
        task = BulkTask(bulk.action, bulk.what, bulk.reason)
        wanted = _without_dismissed(Selection.model_validate(bulk.filter), task)
        found = await search(conn, wanted, after, EXAMINED, finished_before=bulk.created_at)
        here = BulkRetryStep(bulk.id, bulk.actor, bulk.place_id, bulk.created_at, task)
        emails, stop = found.found(bulk.per_second), found.stop(bulk.per_second)
        return await bulk_retries.take_step(conn, here, emails, stop)

    retried = await res.run(take)
    if isinstance(retried, Row):
        await bulk_webhooks.step(res, retried)
        return True
    for each in retried or ():
        res.dispatcher.dispatch(each)
    return retried is not None


async def step_for_ever(res: Resources) -> None:
    """Take due steps, until cancelled."""
    await repeat_steps(lambda: step(res), soon=SOON_SECONDS, idle=IDLE_SECONDS, event="bulk_retry_failed")


def completed(res: Resources, wanted: Selection, task: BulkTask) -> Selection:
    """Complete a filter without a status: it means failed jobs, or e-mails that are not synced and not pending.

    E-mails with files that were not captured are completed as well as failed. The filter of a dismissal says whether its
    e-mails are dismissed already: a worker of the version before dismissals cannot read that field, and takes no step.
    """
    check_finished(wanted.status)
    if task.action == "undismiss":
        return wanted.model_copy(update={"dismissed": True})
    if task.action == "dismiss":
        wanted = wanted.model_copy(update={"dismissed": False})
    if task.action == "retry" and task.what == "sync":
        check_has_target(res)
        return (
            wanted
            if wanted.sync_status or wanted.ids
            else wanted.model_copy(update={"sync_status": "unsynced"})
        )
    if wanted.ids is not None:  # a person chose these e-mails, whatever their states
        return wanted
    if task.action == "dismiss" and wanted.sync_status == "failed":
        return wanted
    has_status = wanted.status or wanted.error_code == NOT_CAPTURED
    wanted = wanted if has_status else wanted.model_copy(update={"status": "failed"})
    if task.action == "dismiss" and wanted.status != "failed" and wanted.error_code != NOT_CAPTURED:
        raise Rejected(409, "not_failed", "Only what failed can be dismissed.")
    return wanted


def _without_dismissed(wanted: Selection, task: BulkTask) -> Selection:
    """Leave dismissed e-mails out of a retry, unless its filter asks for them, or names them."""
    if task.action != "retry" or wanted.dismissed is not None or wanted.ids is not None:
        return wanted
    return wanted.model_copy(update={"dismissed": False})
