"""Retries of many on record: begun, cancelled, and taken step by step by whoever goes on with them.

Of jobs and of syncs alike; `jobs` and `syncs` have the statement of a step, of which `held` and `moved` are parts.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import CTE, Row, Select, case, exists, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.operation_tables import BulkRetry, OperatorAction
from service.postgres.selection import What

# The pause between two steps.
STEP = timedelta(seconds=1)
_BEGAN = {"job": "retry_many", "sync": "sync_many"}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a retry of many: of which, and from where on."""

    bulk_retry_id: int
    actor: str
    place_id: int | None


async def begin(conn: AsyncConnection, what: What, **columns: object) -> int:
    """Record a retry of many, and who wants it; return its id."""
    new = insert(BulkRetry).values(what=what, **columns).returning(BulkRetry.id, BulkRetry.actor).cte("new")
    noted = _note(new, _BEGAN[what])
    return int((await conn.execute(select(new.c.id).add_cte(noted))).scalar_one())


async def cancel(conn: AsyncConnection, bulk_retry_id: int, actor: str) -> bool:
    """Let no further step be taken; False where it is not running."""
    ended = (
        update(BulkRetry)
        .where(BulkRetry.id == bulk_retry_id, BulkRetry.status == "running")
        .values(status="cancelled", finished_at=func.now())
        .returning(BulkRetry.id, literal(actor).label("actor"))
        .cte("ended")
    )
    return bool(await conn.scalar(select(ended.c.id).add_cte(_note(ended, "cancel_retry_many"))))


async def status_of(conn: AsyncConnection, bulk_retry_id: int) -> str | None:
    """Tell the state of a retry of many; None if there is none."""
    return await conn.scalar(select(BulkRetry.status).where(BulkRetry.id == bulk_retry_id))


async def take(conn: AsyncConnection, patience: timedelta) -> Row[Any] | None:
    """Take a retry of many of which a step is due; whoever takes it has `patience` to do it."""
    due = (
        select(BulkRetry.id)
        .where(BulkRetry.status == "running", BulkRetry.next_at <= func.now())
        .order_by(BulkRetry.next_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    taken = update(BulkRetry).where(BulkRetry.id == due.c.id).values(next_at=func.now() + patience)
    return (await conn.execute(taken.returning(*BulkRetry.__table__.c))).one_or_none()


def held(step: Step) -> CTE:
    """Make the part of a statement that holds it; empty where somebody took the same step, or cancelled it."""
    here = BulkRetry.place_id.is_not_distinct_from(step.place_id)
    mine = (BulkRetry.id == step.bulk_retry_id, BulkRetry.status == "running", here)
    return select(BulkRetry.id).where(*mine).with_for_update().cte("bulk")


def moved(bulk: CTE, done: CTE, stop: Select[Any]) -> CTE:
    """Make the part that notes how many were done and where the walk stands; where nothing is left, it is over."""
    place = stop.cte("place")
    more = exists(place.select())
    return (
        update(BulkRetry)
        .where(BulkRetry.id == bulk.c.id)
        .values(
            retried=BulkRetry.retried + select(func.count()).select_from(done).scalar_subquery(),
            place_time=func.coalesce(select(place.c.received_at).scalar_subquery(), BulkRetry.place_time),
            place_id=func.coalesce(select(place.c.id).scalar_subquery(), BulkRetry.place_id),
            next_at=func.now() + STEP,
            status=case((more, "running"), else_="done"),
            finished_at=case((~more, func.now())),
        )
        .returning(BulkRetry.id)
        .cte("moved")
    )


def _note(bulk: CTE, action: str) -> CTE:
    row = select(bulk.c.actor, literal(action), bulk.c.id)
    noted = insert(OperatorAction).from_select(["actor", "action", "bulk_retry_id"], row)
    return noted.returning(OperatorAction.id).cte("noted")
