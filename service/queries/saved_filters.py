"""Saved filters of the list of e-mails."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.engine import connect
from service.postgres.operation_tables import SavedFilter
from service.postgres.selection import Selection
from service.queries.views import View


class SavedFilterView(View):
    """A filter under a name, for everybody."""

    id: int
    name: str
    filter: Selection
    saved_at: datetime
    saved_by: str = Field(description="The person, and the entry point")


class SavedFilterPage(View):
    filters: Sequence[SavedFilterView] = Field(description="By name")


async def list_filters(engine: AsyncEngine) -> SavedFilterPage:
    """Return all saved filters, by name."""
    query = select(*SavedFilter.__table__.c).order_by(func.lower(SavedFilter.name), SavedFilter.id)
    async with connect(engine) as conn:
        return SavedFilterPage(
            filters=[SavedFilterView.model_validate(row) for row in await conn.execute(query)]
        )
