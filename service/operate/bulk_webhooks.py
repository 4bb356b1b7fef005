"""Replay or dismiss all webhooks in quarantine that match a filter: a bulk retry, in steps that any worker takes."""

from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.jobs import bulk_retries
from service.operate.dismiss import dismiss_webhook, undismiss_webhook
from service.operate.replay import replay_webhook
from service.postgres.email_tables import QuarantinedWebhook
from service.postgres.engine import connect
from service.postgres.search import Count
from service.postgres.selection import WebhookSelection, WebhookTask, cleaned_reason
from service.postgres.webhook_search import conditions, count_webhooks
from service.resources import Resources

PER_SECOND = 20  # by default
# A step has a lease, and each webhook takes several statements.
MOST_PER_SECOND = 100

log = structlog.get_logger()


async def plan(res: Resources, wanted: WebhookSelection, task: WebhookTask) -> Count:
    """Count the webhooks that would be replayed or dismissed; raises Rejected for replayed ones (409)."""
    async with connect(res.engine) as conn:
        return await count_webhooks(conn, _completed(wanted, task))


async def start(
    res: Resources, wanted: WebhookSelection, per_second: int, actor: str, task: WebhookTask
) -> int:
    """Begin with the matching webhooks that came before now, oldest first; return the id of the bulk retry.

    Raises Rejected as `plan` does, and for a dismissal without a reason (409).
    """
    if task.action == "dismiss":
        task = replace(task, reason=cleaned_reason(task.reason))
    planned = await plan(res, wanted, task)
    async with connect(res.engine) as conn:
        number = await bulk_retries.begin(
            conn,
            task,
            actor=actor,
            # A worker of the version before cannot read this filter, and takes no step.
            filter=_completed(wanted, task).model_dump(mode="json", exclude_none=True),
            per_second=per_second,
            planned=planned.number,
            planned_capped=planned.is_capped,
        )
    log.info(
        "bulk_retry_begun", bulk_retry=number, action=task.action, what=task.what, planned=planned.number
    )
    return number


async def step(res: Resources, bulk: Row[Any]) -> None:
    """Take a claimed step: each webhook is one act and one row of progress, so that a step may be taken twice."""
    place = bulk.place_id
    ids = await res.run(partial(_next, bulk=bulk))
    for webhook_id in ids:
        is_done = await _act(res, bulk, webhook_id)
        record = partial(
            bulk_retries.record_webhook,
            bulk_retry_id=bulk.id,
            place=place,
            webhook_id=webhook_id,
            is_done=is_done,
        )
        if not await res.run(record):
            return
        place = webhook_id
    is_last = len(ids) < bulk.per_second
    await res.run(partial(bulk_retries.end_webhook_step, bulk_retry_id=bulk.id, is_last=is_last))


async def _next(conn: AsyncConnection, bulk: Row[Any]) -> list[int]:
    row = QuarantinedWebhook
    wanted = WebhookSelection.model_validate(bulk.filter)
    query = select(row.id).where(*conditions(wanted), row.received_at < bulk.created_at)
    if bulk.place_id is not None:
        query = query.where(row.id > bulk.place_id)
    return list((await conn.scalars(query.order_by(row.id).limit(bulk.per_second))).all())


async def _act(res: Resources, bulk: Row[Any], webhook_id: int) -> bool:
    """Replay or dismiss one webhook; return whether that was done."""
    try:
        if bulk.action == "replay":
            await replay_webhook(res, webhook_id, bulk.actor, bulk_retry_id=bulk.id)
        elif bulk.action == "dismiss":
            await dismiss_webhook(res, webhook_id, bulk.actor, bulk.reason, bulk_retry_id=bulk.id)
        else:
            await undismiss_webhook(res, webhook_id, bulk.actor, bulk_retry_id=bulk.id)
    except Rejected:  # it still is no e-mail, or somebody was first
        return False
    return True


def _completed(wanted: WebhookSelection, task: WebhookTask) -> WebhookSelection:
    """Say in the filter which webhooks the action is about."""
    if wanted.replayed:
        raise Rejected(409, "already_replayed", "Replayed webhooks can be neither replayed nor dismissed.")
    if task.action == "replay":
        return wanted
    return wanted.model_copy(update={"dismissed": task.action == "undismiss"})
