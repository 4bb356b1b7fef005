"""All e-mails at once: how many there are in each state, and how long the oldest waits."""

from datetime import datetime

from sqlalchemy import ColumnElement, ScalarSelect, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database import connect
from service.models import STATUSES, IncomingEmail, QuarantinedWebhook
from service.queries.views import Stats

COUNT_CAP = 10_000
UNFINISHED = ("received", "queued", "processing")


async def stats(engine: AsyncEngine) -> Stats:
    """Count by status, and find the oldest e-mail that is not finished."""
    counts = {
        **{status: _capped(IncomingEmail.processing_status == status) for status in STATUSES},
        "quarantined": _capped(QuarantinedWebhook.replayed_at.is_(None)),
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


def _capped(condition: ColumnElement[bool]) -> ScalarSelect[int]:
    some = select(literal_column("1")).where(condition).limit(COUNT_CAP).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def _oldest(status: str) -> ScalarSelect[datetime]:
    return (
        select(IncomingEmail.received_at)
        .where(IncomingEmail.processing_status == status)
        .order_by(IncomingEmail.received_at)
        .limit(1)
        .scalar_subquery()
    )
