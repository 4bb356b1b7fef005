"""All e-mails at once: how many there are in each state, and how long the oldest waits."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import InstrumentedAttribute

from service.database import connect
from service.models import STATUSES, IncomingEmail, QuarantinedWebhook, in_status
from service.queries.views import Stats

COUNT_CAP = 10_000
UNFINISHED = ("received", "queued", "processing")


async def stats(engine: AsyncEngine) -> Stats:
    """Count by status, and find the oldest e-mail that is not finished."""
    counts = {
        **{status: _capped(in_status(status), IncomingEmail.received_at) for status in STATUSES},
        "quarantined": _capped(QuarantinedWebhook.replayed_at.is_(None), QuarantinedWebhook.id),
    }
    oldest = func.least(*(_oldest(status) for status in UNFINISHED))
    async with connect(engine) as conn:
        row = (
            await conn.execute(
                select(
                    *(count.label(name) for name, count in counts.items()),
                    func.extract("epoch", func.now() - oldest).label("oldest"),
                )
            )
        ).one()
    return Stats(
        by_status={status: getattr(row, status) for status in STATUSES},
        quarantined=row.quarantined,
        capped=[name for name in counts if getattr(row, name) == COUNT_CAP],
        oldest_waiting_seconds=None if row.oldest is None else float(row.oldest),
    )


async def ping(engine: AsyncEngine) -> None:
    async with connect(engine) as conn:
        await conn.execute(select(IncomingEmail.id).limit(1))


def _capped(condition: ColumnElement[bool], order: InstrumentedAttribute[Any]) -> ScalarSelect[int]:
    """Count in the order of an index that has just these."""
    some = select(literal_column("1")).where(condition).order_by(order).limit(COUNT_CAP).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def _oldest(status: str) -> ScalarSelect[datetime]:
    return (
        select(IncomingEmail.received_at)
        .where(in_status(status))
        .order_by(IncomingEmail.received_at)
        .limit(1)
        .scalar_subquery()
    )
