"""Bulk retries in Postgres: begun, cancelled, and done in steps by whichever worker claims the next step."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import CTE, Row, Select, case, exists, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.retries import execute_retry, lock_finished, retry_parts
from service.jobs.waiting import Job, Sync
from service.postgres.email_tables import IncomingEmail
from service.postgres.operation_tables import BulkRetry, OperatorAction
from service.postgres.selection import What

# The pause between two steps.
STEP = timedelta(seconds=1)
_BEGAN = {"job": "retry_many", "sync": "sync_many"}


@dataclass(frozen=True, slots=True)
class BulkRetryStep:
    """One step of a bulk retry; the search for e-mails goes on after `place_id`."""

    bulk_retry_id: int
    actor: str
    place_id: int | None


async def begin(conn: AsyncConnection, what: What, **columns: object) -> int:
    """Record a bulk retry and its operator; return its id."""
    new = insert(BulkRetry).values(what=what, **columns).returning(BulkRetry.id, BulkRetry.actor).cte("new")
    recorded = _record_action(new, _BEGAN[what])
    return int((await conn.execute(select(new.c.id).add_cte(recorded))).scalar_one())


async def cancel(conn: AsyncConnection, bulk_retry_id: int, actor: str) -> bool:
    """Allow no further step; False where the bulk retry is not running."""
    ended = (
        update(BulkRetry)
        .where(BulkRetry.id == bulk_retry_id, BulkRetry.status == "running")
        .values(status="cancelled", finished_at=func.now())
        .returning(BulkRetry.id, literal(actor).label("actor"))
        .cte("ended")
    )
    return bool(await conn.scalar(select(ended.c.id).add_cte(_record_action(ended, "cancel_retry_many"))))


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


async def retry_next(
    conn: AsyncConnection, step: BulkRetryStep, what: What, found: Select[Any], stop: Select[Any]
) -> list[Job] | list[Sync]:
    """Retry the e-mails of one step and record the progress, in one statement.

    `found` selects the e-mails; `stop` selects the place where the search stops, if there are more. Nothing is
    done where another worker did the same step first, or an operator cancelled the bulk retry.
    """
    bulk = _lock(step)
    finished = lock_finished(exists(bulk.select()), IncomingEmail.id.in_(select(found.subquery().c.id)))
    retried, parts = retry_parts(finished, step.actor, what, step.bulk_retry_id)
    return await execute_retry(conn, what, retried, [*parts, _record_progress(bulk, retried, stop)])


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
        )
        .returning(BulkRetry.id)
        .cte("moved")
    )


def _record_action(bulk: CTE, action: str) -> CTE:
    row = select(bulk.c.actor, literal(action), bulk.c.id)
    noted = insert(OperatorAction).from_select(["actor", "action", "bulk_retry_id"], row)
    return noted.returning(OperatorAction.id).cte("noted")
