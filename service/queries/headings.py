"""Subject and sender of some e-mails, for lists that know only their ids."""

from collections.abc import Iterable, Mapping

from sqlalchemy import BigInteger, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine

from service.postgres.email_tables import IncomingEmail
from service.postgres.engine import connect
from service.postgres.message_tables import Message
from service.postgres.rows import BRIEF_TEXT
from service.postgres.search import inline_number
from service.queries.views import View


class HeadingView(View):
    """What tells an e-mail from others; texts are cut to 300 characters."""

    id: int
    subject: str | None
    sender: str | None


async def headings_of(engine: AsyncEngine, email_ids: Iterable[int | None]) -> Mapping[int, HeadingView]:
    """Return the headings of these e-mails, as Zendesk's API told them, or else the webhook."""
    wanted = sorted({email_id for email_id in email_ids if email_id is not None})
    if not wanted:
        return {}
    row, most = IncomingEmail, inline_number(BRIEF_TEXT)
    sender = func.coalesce(Message.from_name, Message.from_address, row.from_name, row.from_email)
    query = (
        select(
            row.id,
            func.left(func.coalesce(Message.subject, row.subject), most).label("subject"),
            func.left(sender, most).label("sender"),
        )
        .outerjoin(Message, Message.email_id == row.id)
        .where(row.id == func.any(literal(wanted, ARRAY(BigInteger))))
    )
    async with connect(engine) as conn:
        return {each.id: HeadingView.model_validate(each) for each in await conn.execute(query)}
