"""What moves: the newest e-mails, those that are not finished or not synced, and those that somebody has an eye on."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field
from sqlalchemy import BigInteger, and_, case, func, literal, select, text, true, union
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.email_tables import PROCESSING, TO_SYNC, WAITING, IncomingEmail
from service.postgres.engine import connect
from service.postgres.rows import brief
from service.postgres.search import LIGHT, inline_number, matches
from service.postgres.selection import Selection
from service.queries.views import Key, Number, State, View

# How many of each kind one look sees.
MOST_SEEN = 500


class Change(View):
    """Where an e-mail stands, and since when, as far as that is on record."""

    id: int
    at: datetime
    zendesk_ticket_id: Key
    processing_status: State
    attempt_number: int
    retry_count: Number
    error_code: str | None
    processing_error: str | None
    sync_status: str
    sync_due_at: datetime
    sync_error_code: str | None
    sync_error: str | None
    synced_at: datetime | None
    matches: bool = Field(exclude=True)


async def list_changes(engine: AsyncEngine, wanted: Selection, watched: Sequence[int]) -> Sequence[Change]:
    """Return where they stand, lowest id first; `watched` are ids that may have changed since the last look."""
    email = IncomingEmail
    newest = select(email.id).order_by(email.id.desc()).limit(inline_number(MOST_SEEN))
    waiting = (
        select(email.id).where(text(WAITING)).order_by(email.due_at.desc()).limit(inline_number(MOST_SEEN))
    )
    working = (
        select(email.id)
        .where(text(PROCESSING))
        .order_by(email.lease_until.desc())
        .limit(inline_number(MOST_SEEN))
    )
    syncing = (
        select(email.id)
        .where(text(TO_SYNC))
        .order_by(email.sync_due_at.desc())
        .limit(inline_number(MOST_SEEN))
    )
    eyed = select(func.unnest(literal(watched[-MOST_SEEN:], ARRAY(BigInteger))))
    ids = union(*(select(way.subquery()) for way in (newest, waiting, working, syncing, eyed))).subquery()
    rows = select(*LIGHT).where(email.id == ids.c[0]).subquery()
    at = case(
        (rows.c.processing_status == "received", rows.c.received_at),
        (rows.c.processing_status == "processing", rows.c.started_at),
        else_=rows.c.completed_at,
    )
    columns = brief(rows.c[name] for name in Change.model_fields if name not in {"at", "matches"})
    does_match = func.coalesce(and_(true(), *matches(wanted, rows)), False)
    query = select(*columns, func.coalesce(at, func.now()).label("at"), does_match.label("matches")).order_by(
        rows.c.id
    )
    async with connect(engine) as conn:
        return [Change.model_validate(row) for row in await conn.execute(query)]
