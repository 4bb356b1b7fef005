"""Quarantine: a page of requests that could not be read, one with its bytes, and those that wait."""

from collections.abc import Sequence

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Rejected
from service.postgres.email_tables import QuarantinedWebhook
from service.postgres.engine import connect
from service.postgres.rows import brief
from service.queries.pages import PageFilter, cut
from service.queries.views import QuarantineDetail, QuarantinePage, QuarantineView, RequestView

_HEAVY = {"raw_body", "raw_headers", "idempotency_key", "signature_hash"}
_LIGHT = (
    *(column for column in QuarantinedWebhook.__table__.c if column.name not in _HEAVY),
    func.octet_length(QuarantinedWebhook.raw_body).label("size"),
)
_WAITS = QuarantinedWebhook.replayed_at.is_(None)


class QuarantineFilter(PageFilter):
    """The parameters of a list: what waits to be replayed, unless what was is asked for."""

    replayed: bool = Field(False, description="Those that were replayed, instead of those that wait")


async def list_quarantined(engine: AsyncEngine, wanted: QuarantineFilter) -> QuarantinePage:
    """Return a page of quarantined requests, newest first."""
    query = select(*brief(_LIGHT)).where(~_WAITS if wanted.replayed else _WAITS)
    if after := wanted.after():
        query = query.where(QuarantinedWebhook.id < after[1])
    query = query.order_by(QuarantinedWebhook.id.desc()).limit(wanted.limit + 1)
    async with connect(engine) as conn:
        rows, next_cursor = cut((await conn.execute(query)).mappings().all(), wanted.limit)
    return QuarantinePage(quarantine=[QuarantineView(**row) for row in rows], next_cursor=next_cursor)


async def get_quarantined(engine: AsyncEngine, quarantine_id: int) -> QuarantineDetail:
    """Return a request as it came; raises Rejected (404) if there is none."""
    heavy = (QuarantinedWebhook.raw_headers, QuarantinedWebhook.raw_body)
    query = select(*_LIGHT, *heavy).where(QuarantinedWebhook.id == quarantine_id)
    async with connect(engine) as conn:
        row = (await conn.execute(query)).mappings().one_or_none()
    if row is None:
        raise Rejected(404, "webhook_not_found", f"There is no quarantined webhook {quarantine_id}.")
    request = RequestView.of(row["raw_headers"], row["raw_body"])
    return QuarantineDetail(**row, **request.model_dump())


async def waiting_ids(engine: AsyncEngine) -> Sequence[int]:
    """Return the ids of all that wait to be replayed, oldest first."""
    query = select(QuarantinedWebhook.id).where(_WAITS).order_by(QuarantinedWebhook.id)
    async with connect(engine) as conn:
        return (await conn.scalars(query)).all()
