"""Ignored webhooks: a page of events of types that are not used, one with its bytes, and those not replayed yet."""

from collections.abc import Sequence

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Rejected
from service.postgres.email_tables import IgnoredWebhook
from service.postgres.engine import connect
from service.queries.pages import PageFilter, cut
from service.queries.views import IgnoredDetail, IgnoredPage, IgnoredView, RequestView

_HEAVY = {"raw_body", "raw_headers", "idempotency_key", "signature_hash"}
_LIGHT = (
    *(column for column in IgnoredWebhook.__table__.c if column.name not in _HEAVY),
    func.octet_length(IgnoredWebhook.raw_body).label("size"),
)
_WAITS = IgnoredWebhook.replayed_at.is_(None)


class IgnoredFilter(PageFilter):
    """The parameters of a list."""

    replayed: bool = Field(False, description="Those that became e-mails, instead of those that did not")


async def list_ignored(engine: AsyncEngine, wanted: IgnoredFilter) -> IgnoredPage:
    """Return a page of ignored webhooks, newest first."""
    query = select(*_LIGHT).where(~_WAITS if wanted.replayed else _WAITS)
    if after := wanted.after():
        query = query.where(IgnoredWebhook.id < after[1])
    query = query.order_by(IgnoredWebhook.id.desc()).limit(wanted.limit + 1)
    async with connect(engine) as conn:
        rows, next_cursor = cut((await conn.execute(query)).mappings().all(), wanted.limit)
    return IgnoredPage(ignored=[IgnoredView(**row) for row in rows], next_cursor=next_cursor)


async def get_ignored(engine: AsyncEngine, ignored_id: int) -> IgnoredDetail:
    """Return a webhook as it came; raises Rejected (404) if there is none."""
    heavy = (IgnoredWebhook.raw_headers, IgnoredWebhook.raw_body)
    async with connect(engine) as conn:
        found = await conn.execute(select(*_LIGHT, *heavy).where(IgnoredWebhook.id == ignored_id))
        row = found.mappings().one_or_none()
    if row is None:
        raise Rejected(404, "webhook_not_found", f"There is no ignored webhook {ignored_id}.")
    request = RequestView.of(row["raw_headers"], row["raw_body"])
    return IgnoredDetail(**row, **request.model_dump())


async def ignored_ids(engine: AsyncEngine) -> Sequence[int]:
    """Return the ids of all that became no e-mail, oldest first."""
    query = select(IgnoredWebhook.id).where(_WAITS).order_by(IgnoredWebhook.id)
    async with connect(engine) as conn:
        return (await conn.scalars(query)).all()
