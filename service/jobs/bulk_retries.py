"""Bulk retries in Postgres: begun, cancelled, and done in steps by whichever worker claims the next step.

A dismissal of all e-mails that match is one, too: only what a step does to its e-mails differs.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Row,
    Select,
    case,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.dismissals import dismiss_parts, undismiss_parts
from service.jobs.retries import execute_retry, lock_finished, record_acts, retry_parts
from service.jobs.waiting import Job, Sync
from service.postgres.email_tables import IncomingEmail
from service.postgres.operation_tables import BulkRetry
from service.postgres.selection import BulkTask, WebhookTask

# The pause between two steps.
STEP = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class BulkRetryStep:
    """One step of a bulk retry; the search for e-mails goes on after `place_id`."""

    bulk_retry_id: int
    actor: str
    place_id: int | None
    begun_at: datetime
    task: BulkTask


async def begin(conn: AsyncConnection, task: BulkTask | WebhookTask, **columns: object) -> int:
    """Record a bulk retry and its operator; return its id."""
    values = {"what": task.what, "action": task.action, "reason": task.reason, **columns}
    if task.action != "retry":  # a dismissed e-mail does not run: there is no outcome to look for
        values["look_at"] = literal_column("'infinity'::timestamptz")
    columns_of = (BulkRetry.id, BulkRetry.actor, BulkRetry.reason)
    new = insert(BulkRetry).values(values).returning(*columns_of).cte("new")
    name = "sync" if (task.action, task.what) == ("retry", "sync") else task.action
    recorded = _record_action(new, f"{name}_many", new.c.reason)
    return int((await conn.execute(select(new.c.id).add_cte(*recorded))).scalar_one())


async def cancel(conn: AsyncConnection, bulk_retry_id: int, actor: str) -> bool:
    """Allow no further step; False where the bulk retry is not running."""
    ended = (
        update(BulkRetry)
        .where(BulkRetry.id == bulk_retry_id, BulkRetry.status == "running")
        .values(status="cancelled", finished_at=func.now(), settled_at=_settled())
        .returning(BulkRetry.id, literal(actor).label("actor"))
        .cte("ended")
    )
    return bool(await conn.scalar(select(ended.c.id).add_cte(*_record_action(ended, "cancel_retry_many"))))


async def status_of(conn: AsyncConnection, bulk_retry_id: int) -> str | None:
    """Return the state of a bulk retry; None if there is no such one."""
    return await conn.scalar(select(BulkRetry.status).where(BulkRetry.id == bulk_retry_id))


async def claim_step(conn: AsyncConnection, lease: timedelta) -> Row[Any] | None:
    """Claim a bulk retry whose next step is due; after the lease another worker may claim it."""
    due = (
        select(BulkRetry.id)
        .where(BulkRetry.status == "running", BulkRetry.next_at <= func.now())
        .order_by(BulkRetry.next_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    claimed = update(BulkRetry).where(BulkRetry.id == due.c.id).values(next_at=func.now() + lease)
    return (await conn.execute(claimed.returning(*BulkRetry.__table__.c))).one_or_none()


async def take_step(
    conn: AsyncConnection, step: BulkRetryStep, found: Select[Any], stop: Select[Any]
) -> list[Job] | list[Sync]:
    """Retry or dismiss the e-mails of one step and record the progress, in one statement; return what to dispatch.

    `found` selects the e-mails; `stop` selects the place where the search stops, if there are more. Nothing is
    done where another worker did the same step first, or an operator cancelled the bulk retry.
    """
    bulk, task = _lock(step), step.task
    which = (exists(bulk.select()), IncomingEmail.id.in_(select(found.subquery().c.id)))
    if task.action == "retry":
        changed, parts = retry_parts(lock_finished(*which), step.actor, task.what, step.bulk_retry_id)
        return await execute_retry(conn, task.what, changed, [*parts, _record_progress(bulk, changed, stop)])
    if task.action == "dismiss":
        # A sync that failed since the start was in no plan. `sync_due_at` is the time of its failure.
        is_seen = or_(IncomingEmail.sync_status != "failed", IncomingEmail.sync_due_at < step.begun_at)
        changed, parts = dismiss_parts((*which, is_seen), step.actor, task.reason or "", step.bulk_retry_id)
    else:
        changed, parts = undismiss_parts(which, step.actor, step.bulk_retry_id)
    await conn.execute(select(changed.c.id).add_cte(*parts, _record_progress(bulk, changed, stop)))
    return []


async def record_webhook(
    conn: AsyncConnection, bulk_retry_id: int, place: int | None, webhook_id: int, *, is_done: bool
) -> bool:
    """Record what became of one webhook; return False where the bulk retry does not go on from this place.

    Then it was cancelled, or another worker took the same step.
    """
    here = BulkRetry.place_id.is_not_distinct_from(place)
    counted = (
        {"repaired": BulkRetry.repaired + 1} if is_done else {"failed_again": BulkRetry.failed_again + 1}
    )
    moved = (
        update(BulkRetry)
        .where(BulkRetry.id == bulk_retry_id, BulkRetry.status == "running", here)
        .values(place_id=webhook_id, retried=BulkRetry.retried + 1, **counted)
        .returning(BulkRetry.id)
    )
    return await conn.scalar(moved) is not None


async def end_webhook_step(conn: AsyncConnection, bulk_retry_id: int, *, is_last: bool) -> None:
    """Let the next step of a bulk retry of webhooks follow, or end it."""
    values: dict[str, Any] = {"next_at": func.now() + STEP}
    if is_last:
        values |= {"status": "done", "finished_at": func.now(), "settled_at": func.now()}
    mine = (BulkRetry.id == bulk_retry_id, BulkRetry.status == "running")
    await conn.execute(update(BulkRetry).where(*mine).values(values))


def _lock(step: BulkRetryStep) -> CTE:
    """Lock the bulk retry; no row where this step was done already, or the bulk retry is cancelled."""
    here = BulkRetry.place_id.is_not_distinct_from(step.place_id)
    mine = (BulkRetry.id == step.bulk_retry_id, BulkRetry.status == "running", here)
    return select(BulkRetry.id).where(*mine).with_for_update().cte("bulk")


def _record_progress(bulk: CTE, retried: CTE, stop: Select[Any]) -> CTE:
    """Add to the number of retries and move the place; end the bulk retry where no e-mail is left."""
    place = stop.cte("place")
    more = exists(place.select())
    return (
        update(BulkRetry)
        .where(BulkRetry.id == bulk.c.id)
        .values(
            retried=BulkRetry.retried + select(func.count()).select_from(retried).scalar_subquery(),
            place_time=func.coalesce(select(place.c.received_at).scalar_subquery(), BulkRetry.place_time),
            place_id=func.coalesce(select(place.c.id).scalar_subquery(), BulkRetry.place_id),
            next_at=func.now() + STEP,
            status=case((more, "running"), else_="done"),
            finished_at=case((~more, func.now())),
            settled_at=case((~more, _settled())),
        )
        .returning(BulkRetry.id)
        .cte("moved")
    )


def _settled() -> ColumnElement[Any]:
    """Return when a bulk retry that ends now is settled: a dismissal at once, a retry when its e-mails have ended."""
    return case((BulkRetry.action != "retry", func.now()))


def _record_action(bulk: CTE, action: str, reason: ColumnElement[Any] | None = None) -> list[CTE]:
    row = select(bulk.c.actor, literal(action), bulk.c.id, null() if reason is None else reason)
    columns = ["actor", "action", "bulk_retry_id", "reason"]
    return record_acts(columns, row)
