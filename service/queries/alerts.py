"""Open and resolved alerts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, ColumnElement, Select, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.postgres.alert_tables import Alert, AlertDelivery
from service.postgres.engine import connect
from service.postgres.rows import brief
from service.queries.views import View

MAX_TEXT = 2000  # characters; the text of an alert says what to do


class DeliveryView(View):
    """The delivery of an alert on one channel."""

    news: str
    channel: str
    status: str
    attempts: int
    sent_at: datetime | None
    error: str | None


class AlertView(View):
    """An alert, with its deliveries."""

    id: int
    cause: str
    key: str  # tells alerts of one cause apart; for failures the error and the host
    opened_at: datetime
    seen_at: datetime
    resolved_at: datetime | None
    count: int
    summary: str
    detail: str
    email_id: int | None  # an example
    deliveries: Sequence[DeliveryView] = ()


class AlertFilter(BaseModel):
    """The parameters of the list of alerts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200, description="Maximum number")


class AlertPage(View):
    """Alerts, open ones first, newest first."""

    alerts: Sequence[AlertView]


async def list_alerts(engine: AsyncEngine, limit: int = 50) -> AlertPage:
    """Return the open alerts, then the newest resolved ones."""
    is_open = Alert.resolved_at.is_(None)
    async with connect(engine) as conn:
        rows = (await conn.execute(_newest(is_open, limit))).mappings().all()
        if more := limit - len(rows):
            rows = [*rows, *(await conn.execute(_newest(~is_open, more))).mappings()]
        deliveries = await _deliveries(conn, [row["id"] for row in rows])
    return AlertPage(alerts=[AlertView(**row, deliveries=deliveries.get(row["id"], ())) for row in rows])


def _newest(condition: ColumnElement[bool], limit: int) -> Select[Any]:
    return select(*brief(Alert.__table__.c, MAX_TEXT)).where(condition).order_by(Alert.id.desc()).limit(limit)


async def _deliveries(conn: AsyncConnection, alert_ids: Sequence[int]) -> dict[int, list[DeliveryView]]:
    found: dict[int, list[DeliveryView]] = {}
    is_theirs = AlertDelivery.alert_id == func.any(literal(alert_ids, ARRAY(BigInteger)))
    query = select(*brief(AlertDelivery.__table__.c)).where(is_theirs)
    for row in await conn.execute(query.order_by(AlertDelivery.created_at, AlertDelivery.channel)):
        found.setdefault(row.alert_id, []).append(DeliveryView.model_validate(row))
    return found
