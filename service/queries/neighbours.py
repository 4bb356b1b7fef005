"""What stands around an e-mail: the ones before and after it, and all of its ticket."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.email_tables import Attachment, IncomingEmail
from service.postgres.engine import connect
from service.postgres.message_tables import Message
from service.postgres.rows import BRIEF_TEXT
from service.postgres.search import inline_number
from service.queries.views import EmailDetail, View

MAX_OF_TICKET = 30


class TicketEmailView(View):
    """An e-mail in the list of its ticket; texts are cut to 300 characters."""

    id: int
    at: datetime
    sender: str | None
    direction: Literal["inbound", "outbound"] | None
    text: str | None
    files: int


class NeighboursView(View):
    """The ids of the e-mails that were received before and after one, and its ticket's, newest first."""

    older: int | None
    newer: int | None
    of_ticket: Sequence[TicketEmailView]
    has_more: bool


async def neighbours_of(engine: AsyncEngine, email: EmailDetail) -> NeighboursView:
    """Return what stands around an e-mail; of its ticket the newest MAX_OF_TICKET."""
    older = select(func.max(IncomingEmail.id)).where(IncomingEmail.id < email.id)
    newer = select(func.min(IncomingEmail.id)).where(IncomingEmail.id > email.id)
    async with connect(engine) as conn:
        around = (
            await conn.execute(
                select(older.scalar_subquery().label("older"), newer.scalar_subquery().label("newer"))
            )
        ).one()
        rows = (await conn.execute(_of_ticket(email))).all() if email.zendesk_ticket_id else []
    found = [TicketEmailView.model_validate(row) for row in rows[:MAX_OF_TICKET]]
    found.sort(key=lambda each: (each.at, each.id), reverse=True)
    return NeighboursView(
        older=around.older, newer=around.newer, of_ticket=found, has_more=len(rows) > MAX_OF_TICKET
    )


def _of_ticket(email: EmailDetail) -> Select[Any]:
    row, most = IncomingEmail, inline_number(BRIEF_TEXT)
    files = select(func.count()).where(Attachment.email_id == row.id).scalar_subquery()
    sender = func.coalesce(Message.from_name, Message.from_address, row.from_name, row.from_email)
    return (
        select(
            row.id,
            func.coalesce(Message.sent_at, row.sent_at, row.received_at, func.to_timestamp(0)).label("at"),
            func.left(sender, most).label("sender"),
            Message.direction,
            func.left(Message.text, most).label("text"),
            files.label("files"),
        )
        .outerjoin(Message, Message.email_id == row.id)
        .where(row.zendesk_ticket_id == email.zendesk_ticket_id)
        .where(func.coalesce(row.account_id, "") == (email.account_id or ""))
        .order_by(row.id.desc())
        .limit(MAX_OF_TICKET + 1)
    )
