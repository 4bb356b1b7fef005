"""Webhooks that made no e-mail: in quarantine because they cannot be parsed, or ignored because of their type."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from sqlalchemy import ColumnElement, RowMapping, TextClause, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Rejected
from service.postgres.email_tables import (
    DISMISSED_WEBHOOK,
    IN_QUARANTINE,
    NOT_REPLAYED,
    IgnoredWebhook,
    QuarantinedWebhook,
)
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

REPLAYED = "replayed_at IS NOT NULL"

WebhookTable = type[QuarantinedWebhook] | type[IgnoredWebhook]

_NOT_LISTED = {"raw_body", "raw_headers", "idempotency_key", "signature_hash"}


class QuarantineFilter(PageFilter):
    """The parameters of a list of quarantined webhooks."""

    replayed: bool = Field(False, description="List replayed webhooks instead of waiting ones")
    dismissed: bool = Field(False, description="List dismissed webhooks instead of waiting ones")


class IgnoredFilter(PageFilter):
    """The parameters of a list of ignored webhooks."""

    replayed: bool = Field(False, description="List webhooks that became e-mails instead of the others")


async def list_quarantined(engine: AsyncEngine, wanted: QuarantineFilter) -> QuarantinePage:
    """Return a page of quarantined webhooks, newest first; texts are cut."""
    columns = brief(_listed(QuarantinedWebhook))
    which = REPLAYED if wanted.replayed else DISMISSED_WEBHOOK if wanted.dismissed else IN_QUARANTINE
    rows, cursor = await _list(engine, QuarantinedWebhook, columns, wanted, which)
    return QuarantinePage(quarantine=[QuarantineView(**row) for row in rows], next_cursor=cursor)


async def get_quarantined(engine: AsyncEngine, quarantine_id: int) -> QuarantineDetail:
    """Return a quarantined webhook with its body; raises Rejected (404)."""
    row, request = await _get(engine, QuarantinedWebhook, quarantine_id, "quarantined")
    return QuarantineDetail(**row, **request.model_dump())


async def quarantined_ids(
    engine: AsyncEngine, *, code: str | None = None, dismissed: bool = False
) -> Sequence[int]:
    """Return the ids of the webhooks that wait in quarantine, or of the dismissed ones, oldest first.

    With a code, only of those with this error.
    """
    which = DISMISSED_WEBHOOK if dismissed else IN_QUARANTINE
    with_code = () if code is None else (QuarantinedWebhook.error_code == code,)
    return await _ids(engine, QuarantinedWebhook, text(which), *with_code)


async def list_ignored(engine: AsyncEngine, wanted: IgnoredFilter) -> IgnoredPage:
    """Return a page of ignored webhooks, newest first."""
    columns = _listed(IgnoredWebhook)
    which = REPLAYED if wanted.replayed else NOT_REPLAYED
    rows, cursor = await _list(engine, IgnoredWebhook, columns, wanted, which)
    return IgnoredPage(ignored=[IgnoredView(**row) for row in rows], next_cursor=cursor)


async def get_ignored(engine: AsyncEngine, ignored_id: int) -> IgnoredDetail:
    """Return an ignored webhook with its body; raises Rejected (404)."""
    row, request = await _get(engine, IgnoredWebhook, ignored_id, "ignored")
    return IgnoredDetail(**row, **request.model_dump())


async def ignored_ids(engine: AsyncEngine) -> Sequence[int]:
    """Return the ids of the ignored webhooks that made no e-mail, oldest first."""
    return await _ids(engine, IgnoredWebhook, text(NOT_REPLAYED))


async def _list(
    engine: AsyncEngine,
    table: WebhookTable,
    columns: Sequence[ColumnElement[Any]],
    wanted: PageFilter,
    which: str,
) -> tuple[Sequence[RowMapping], str | None]:
    query = select(*columns).where(text(which))
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


async def _ids(
    engine: AsyncEngine, table: WebhookTable, *which: ColumnElement[bool] | TextClause
) -> Sequence[int]:
    query = select(table.id).where(*which).order_by(table.id)
    async with connect(engine) as conn:
        return (await conn.scalars(query)).all()


def _listed(table: WebhookTable) -> Sequence[ColumnElement[Any]]:
    columns = [column for column in table.__table__.c if column.name not in _NOT_LISTED]
    return [*columns, func.octet_length(table.raw_body).label("size")]
