"""Retries of many: how far each has come, and what became of the e-mails."""

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
from service.postgres.selection import Selection
from service.queries.views import View

MOST_SHOWN = 50


class BulkRetryView(View):
    """A retry of all that match a filter, newest first; it goes on until nothing older matches."""

    id: int
    created_at: datetime
    actor: str
    what: Literal["job", "sync"] = Field(description="What of each e-mail is run again")
    filter: Selection
    per_second: int
    status: Literal["running", "done", "cancelled"]
    planned: int  # how many matched when it began; at least so many, where it is capped
    planned_capped: bool
    retried: int = Field(description="E-mails that were queued")
    repaired: int = Field(description="Of those: completed; of a retry of syncs: synced")
    failed_again: int = Field(description="Of those: failed again, or have no target any more")
    superseded: int = Field(
        description="Of those: another retry began before it was seen how this one ended; they count there"
    )
    reached: datetime | None  # all that came after this has been looked at
    finished_at: datetime | None = Field(description="When the last one was queued")
    settled_at: datetime | None = Field(description="When nothing was queued or running any more")

    @computed_field(description="Of those: queued or running still")  # type: ignore[prop-decorator]
    @property
    def still_running(self) -> int:
        ended = self.repaired + self.failed_again + self.superseded
        return 0 if self.settled_at else max(0, self.retried - ended)


class BulkRetryPage(View):
    retries: Sequence[BulkRetryView]


async def list_retries(engine: AsyncEngine) -> BulkRetryPage:
    """Return the newest."""
    query = select(*_columns()).order_by(BulkRetry.id.desc()).limit(MOST_SHOWN)
    async with connect(engine) as conn:
        return BulkRetryPage(retries=[BulkRetryView.model_validate(row) for row in await conn.execute(query)])


async def get_retry(engine: AsyncEngine, retry_id: int) -> BulkRetryView:
    """Return one; raises Rejected (404) if there is none."""
    async with connect(engine) as conn:
        row = (await conn.execute(select(*_columns()).where(BulkRetry.id == retry_id))).one_or_none()
    if row is None:
        raise Rejected(404, "bulk_retry_not_found", f"There is no retry of many {retry_id}.")
    return BulkRetryView.model_validate(row)


def _columns() -> Sequence[Any]:
    columns = BulkRetry.__table__.c
    return (
        *brief(columns[name] for name in BulkRetryView.model_fields if name not in {"filter", "reached"}),
        columns.filter,  # its own fields are short
        columns.place_time.label("reached"),
    )
