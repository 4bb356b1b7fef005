"""E-mails that may have changed: the newest, the unfinished, those with pending syncs, and watched ones."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field
from sqlalchemy import BigInteger, and_, case, func, literal, select, text, true, union
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.email_tables import PROCESSING, TO_SYNC, WAITING, IncomingEmail
from service.postgres.engine import connect
from service.postgres.message_tables import Message
from service.postgres.rows import BRIEF_TEXT, brief
from service.postgres.search import LIGHT, inline_number, matches
from service.postgres.selection import Selection
from service.queries.views import Key, Number, State, View

# E-mails of each kind per query.
MAX_SEEN = 500


class Change(View):
    """The state of an e-mail, and the time of its last change, as far as known."""

    id: int
    at: datetime
    zendesk_ticket_id: Key
    subject: str | None = None
    from_email: str | None = None
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
    matches: bool = Field(description="Whether the filter selects it; others are shown while they change")


class ChangePage(View):
    """E-mails that may have changed, lowest id first."""

    changes: Sequence[Change]


async def list_changes(engine: AsyncEngine, wanted: Selection, watched: Sequence[int]) -> ChangePage:
    """Return the states of changing and watched e-mails, lowest id first."""
    email = IncomingEmail
    newest = select(email.id).order_by(email.id.desc()).limit(inline_number(MAX_SEEN))
    waiting = (
        select(email.id).where(text(WAITING)).order_by(email.due_at.desc()).limit(inline_number(MAX_SEEN))
    )
    working = (
        select(email.id)
        .where(text(PROCESSING))
        .order_by(email.lease_until.desc())
        .limit(inline_number(MAX_SEEN))
    )
    syncing = (
        select(email.id)
        .where(text(TO_SYNC))
        .order_by(email.sync_due_at.desc())
        .limit(inline_number(MAX_SEEN))
    )
    watch = select(func.unnest(literal(watched[-MAX_SEEN:], ARRAY(BigInteger))))
    ids = union(*(select(way.subquery()) for way in (newest, waiting, working, syncing, watch))).subquery()
    rows = select(*LIGHT).where(email.id == ids.c[0]).subquery()
    at = case(
        (rows.c.processing_status == "received", rows.c.received_at),
        (rows.c.processing_status == "processing", rows.c.started_at),
        else_=rows.c.completed_at,
    )
    own = {"at", "matches", "subject", "from_email"}
    columns = brief(rows.c[name] for name in Change.model_fields if name not in own)
    told = {
        "subject": (Message.subject, rows.c.subject),
        "from_email": (Message.from_address, rows.c.from_email),
    }
    columns += [
        func.left(func.coalesce(*both), inline_number(BRIEF_TEXT)).label(name) for name, both in told.items()
    ]
    does_match = func.coalesce(and_(true(), *matches(wanted, rows)), False)
    query = (
        select(*columns, func.coalesce(at, func.now()).label("at"), does_match.label("matches"))
        .select_from(rows.outerjoin(Message, Message.email_id == rows.c.id))
        .order_by(rows.c.id)
    )
    async with connect(engine) as conn:
        return ChangePage(changes=[Change.model_validate(row) for row in await conn.execute(query)])
