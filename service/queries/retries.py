"""Bulk retries: their progress, and the outcomes of their e-mails."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, computed_field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Rejected
from service.postgres.engine import connect
from service.postgres.operation_tables import BulkRetry
from service.postgres.rows import brief
from service.postgres.selection import BulkAction, Selection, WebhookAction, WebhookSelection
from service.queries.views import View

MAX_SHOWN = 50


class BulkRetryView(View):
    """A bulk retry, or a dismissal, of all e-mails that match a filter; or of all webhooks in quarantine that do."""

    id: int
    created_at: datetime
    actor: str
    action: BulkAction | WebhookAction = Field(description="What is done to each e-mail or webhook")
    what: Literal["job", "sync", "webhook"] = Field(
        description="Whether jobs or syncs are retried; or that it is about webhooks in quarantine"
    )
    reason: str | None = Field(description="Of a dismissal, as the person wrote it")
    filter: Selection | WebhookSelection
    per_second: int
    status: Literal["running", "done", "cancelled"]
    planned: int  # matching e-mails at the start; at least so many if capped
    planned_capped: bool
    retried: int = Field(description="Queued e-mails; in a dismissal the dismissed ones; or handled webhooks")
    repaired: int = Field(
        description="Of those: completed, or synced in a retry of syncs; or replayed or dismissed webhooks"
    )
    failed_again: int = Field(
        description="Of those: failed again, or without a target now; or webhooks that still are no e-mail"
    )
    superseded: int = Field(
        description="Of those: retried again before this retry's outcome was recorded; the later retry counts them"
    )
    reached: datetime | None  # all e-mails received after this time were processed
    finished_at: datetime | None = Field(description="When the last e-mail was queued")
    settled_at: datetime | None = Field(description="When the last e-mail had an outcome")

    @computed_field(description="Of those: still queued or running")  # type: ignore[prop-decorator]
    @property
    def still_running(self) -> int:
        ended = self.repaired + self.failed_again + self.superseded
        return 0 if self.settled_at or self.action != "retry" else max(0, self.retried - ended)


class BulkRetryPage(View):
    retries: Sequence[BulkRetryView]


async def list_retries(engine: AsyncEngine) -> BulkRetryPage:
    """Return the newest bulk retries."""
    query = select(*_columns()).order_by(BulkRetry.id.desc()).limit(MAX_SHOWN)
    async with connect(engine) as conn:
        return BulkRetryPage(retries=[BulkRetryView.model_validate(row) for row in await conn.execute(query)])


async def get_retry(engine: AsyncEngine, retry_id: int) -> BulkRetryView:
    """Return a bulk retry; raises Rejected (404)."""
    async with connect(engine) as conn:
        row = (await conn.execute(select(*_columns()).where(BulkRetry.id == retry_id))).one_or_none()
    if row is None:
        raise Rejected(404, "bulk_retry_not_found", f"There is no bulk retry {retry_id}.")
    return BulkRetryView.model_validate(row)


def _columns() -> Sequence[Any]:
    columns = BulkRetry.__table__.c
    return (
        *brief(columns[name] for name in BulkRetryView.model_fields if name not in {"filter", "reached"}),
        columns.filter,  # short, so not cut
        columns.place_time.label("reached"),
    )
