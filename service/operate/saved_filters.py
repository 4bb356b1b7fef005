"""Keep filters of the list of e-mails under a name, for everybody."""

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.formatting import one_line
from service.jobs.retries import record_act
from service.postgres.engine import transaction
from service.postgres.operation_tables import SavedFilter
from service.postgres.selection import Selection
from service.resources import Resources

MOST_FILTERS = 100
MOST_NAME = 60  # characters
# In records of acts, the name stands as the reason: of that, the evidence log has only the hash.

log = structlog.get_logger()


async def save_filter(res: Resources, name: str, wanted: Selection, actor: str) -> int:
    """Save a filter under a name; return its id.

    Raises Rejected if the name is blank, another filter has it, the filter has no field, or there are too many (409).
    """
    name = one_line(name)[:MOST_NAME].strip()
    chosen = wanted.model_dump(mode="json", exclude_none=True)
    if not name:
        raise Rejected(409, "name_missing", "Give the filter a name.")
    if not chosen:
        raise Rejected(409, "filter_empty", "The filter has no field: there is nothing to save.")

    async def save(conn: AsyncConnection) -> int:
        if (await conn.scalar(select(func.count()).select_from(SavedFilter)) or 0) >= MOST_FILTERS:
            raise Rejected(409, "too_many_filters", f"There are {MOST_FILTERS} filters: remove one first.")
        new = insert(SavedFilter).values(name=name, filter=chosen, saved_by=actor).on_conflict_do_nothing()
        async with transaction(conn):
            number = await conn.scalar(new.returning(SavedFilter.id))
            if number is None:
                raise Rejected(409, "filter_exists", f"There is a filter {name!r} already.")
            await record_act(conn, actor, "save_filter", reason=name)
        return int(number)

    number = await res.run(save)
    log.info("filter_saved", filter=number)
    return number


async def remove_filter(res: Resources, filter_id: int, actor: str) -> None:
    """Remove a saved filter; raises Rejected (404)."""

    async def remove(conn: AsyncConnection) -> None:
        gone = delete(SavedFilter).where(SavedFilter.id == filter_id).returning(SavedFilter.name)
        async with transaction(conn):
            if (name := await conn.scalar(gone)) is None:
                raise Rejected(404, "filter_not_found", f"There is no saved filter {filter_id}.")
            await record_act(conn, actor, "remove_filter", reason=name)

    await res.run(remove)
    log.info("filter_removed", filter=filter_id)
