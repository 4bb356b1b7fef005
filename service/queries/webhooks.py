"""Webhooks that made no e-mail: in quarantine because they cannot be parsed, or ignored because of their type."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from sqlalchemy import ColumnElement, RowMapping, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Rejected
from service.postgres.email_tables import IgnoredWebhook, QuarantinedWebhook
from service.postgres.engine import connect
from service.postgres.rows import brief
from service.queries.pages import PageFilter, cut
from service.queries.views import (
    IgnoredDetail,
    IgnoredPage,
    IgnoredView,
    QuarantineDetail,
    QuarantinePage,
    QuarantineView,
    RequestView,
)

WebhookTable = type[QuarantinedWebhook] | type[IgnoredWebhook]

_NOT_LISTED = {"raw_body", "raw_headers", "idempotency_key", "signature_hash"}


class QuarantineFilter(PageFilter):
    """The parameters of a list of quarantined webhooks."""

    replayed: bool = Field(False, description="List replayed webhooks instead of waiting ones")


class IgnoredFilter(PageFilter):
    """The parameters of a list of ignored webhooks."""

    replayed: bool = Field(False, description="List webhooks that became e-mails instead of the others")


async def list_quarantined(engine: AsyncEngine, wanted: QuarantineFilter) -> QuarantinePage:
    """Return a page of quarantined webhooks, newest first; texts are cut."""
    columns = brief(_listed(QuarantinedWebhook))
    rows, cursor = await _list(engine, QuarantinedWebhook, columns, wanted, replayed=wanted.replayed)
    return QuarantinePage(quarantine=[QuarantineView(**row) for row in rows], next_cursor=cursor)


async def get_quarantined(engine: AsyncEngine, quarantine_id: int) -> QuarantineDetail:
    """Return a quarantined webhook with its body; raises Rejected (404)."""
    row, request = await _get(engine, QuarantinedWebhook, quarantine_id, "quarantined")
    return QuarantineDetail(**row, **request.model_dump())


async def quarantined_ids(engine: AsyncEngine) -> Sequence[int]:
    """Return the ids of the webhooks that wait to be replayed, oldest first."""
    return await _ids(engine, QuarantinedWebhook)


async def list_ignored(engine: AsyncEngine, wanted: IgnoredFilter) -> IgnoredPage:
    """Return a page of ignored webhooks, newest first."""
    columns = _listed(IgnoredWebhook)
    rows, cursor = await _list(engine, IgnoredWebhook, columns, wanted, replayed=wanted.replayed)
    return IgnoredPage(ignored=[IgnoredView(**row) for row in rows], next_cursor=cursor)


async def get_ignored(engine: AsyncEngine, ignored_id: int) -> IgnoredDetail:
    """Return an ignored webhook with its body; raises Rejected (404)."""
    row, request = await _get(engine, IgnoredWebhook, ignored_id, "ignored")
    return IgnoredDetail(**row, **request.model_dump())


async def ignored_ids(engine: AsyncEngine) -> Sequence[int]:
    """Return the ids of the ignored webhooks that made no e-mail, oldest first."""
    return await _ids(engine, IgnoredWebhook)


async def _list(
    engine: AsyncEngine,
    table: WebhookTable,
    columns: Sequence[ColumnElement[Any]],
    wanted: PageFilter,
    *,
    replayed: bool,
) -> tuple[Sequence[RowMapping], str | None]:
    waits = table.replayed_at.is_(None)
    query = select(*columns).where(~waits if replayed else waits)
    if after := wanted.after():
        query = query.where(table.id < after.id)
    query = query.order_by(table.id.desc()).limit(wanted.limit + 1)
    async with connect(engine) as conn:
        return cut((await conn.execute(query)).mappings().all(), wanted.limit)


async def _get(
    engine: AsyncEngine, table: WebhookTable, webhook_id: int, kind: str
) -> tuple[RowMapping, RequestView]:
    query = select(*_listed(table), table.raw_headers, table.raw_body).where(table.id == webhook_id)
    async with connect(engine) as conn:
        row = (await conn.execute(query)).mappings().one_or_none()
    if row is None:
        raise Rejected(404, "webhook_not_found", f"There is no {kind} webhook {webhook_id}.")
    return row, RequestView.of(row["raw_headers"], row["raw_body"])


async def _ids(engine: AsyncEngine, table: WebhookTable) -> Sequence[int]:
    query = select(table.id).where(table.replayed_at.is_(None)).order_by(table.id)
    async with connect(engine) as conn:
        return (await conn.scalars(query)).all()


def _listed(table: WebhookTable) -> Sequence[ColumnElement[Any]]:
    columns = [column for column in table.__table__.c if column.name not in _NOT_LISTED]
    return [*columns, func.octet_length(table.raw_body).label("size")]
