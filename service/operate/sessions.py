"""Ended sessions of browsers; a signed cookie alone cannot tell that its session ended.

A row is kept as long as its cookie would be valid.
"""

from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.engine import connect
from service.postgres.operation_tables import EndedSession

LIFETIME = timedelta(hours=12)
# The clocks of a web process and of Postgres may differ.
MARGIN = timedelta(hours=1)


async def end(engine: AsyncEngine, session_id: str) -> None:
    """End a session in all web processes at once; safe to repeat."""
    ended = insert(EndedSession).values(id=session_id).on_conflict_do_nothing()
    old = delete(EndedSession).where(EndedSession.ended_at < func.now() - (LIFETIME + MARGIN))
    async with connect(engine) as conn:
        await conn.execute(ended)
        await conn.execute(old)


async def has_ended(engine: AsyncEngine, session_id: str) -> bool:
    """Return whether the browser signed out of this session."""
    query = select(exists().where(EndedSession.id == session_id))
    async with connect(engine) as conn:
        return bool(await conn.scalar(query))
