"""Actions of operators, newest first."""

from collections.abc import Mapping, Sequence

from sqlalchemy import BigInteger, and_, func, literal, not_, select, text, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.postgres.engine import connect
from service.postgres.operation_tables import BY_HAND, OperatorAction
from service.postgres.rows import brief
from service.queries.pages import PageFilter, cut
from service.queries.views import ActionView, View

MAX_SHOWN = 100  # per e-mail


class ActionPage(View):
    actions: Sequence[ActionView]
    next_cursor: str | None


async def list_actions(engine: AsyncEngine, wanted: PageFilter) -> ActionPage:
    """Return a page of actions; a bulk retry is one action."""
    is_step = and_(OperatorAction.bulk_retry_id.is_not(None), OperatorAction.quarantine_id.is_not(None))
    query = select(*brief(OperatorAction.__table__.c)).where(text(BY_HAND), not_(is_step))
    query = query.order_by(OperatorAction.id.desc()).limit(wanted.limit + 1)
    if after := wanted.after():
        query = query.where(OperatorAction.id < after.id)
    async with connect(engine) as conn:
        rows, cursor = cut((await conn.execute(query)).mappings().all(), wanted.limit, "at")
    return ActionPage(actions=[ActionView(**row) for row in rows], next_cursor=cursor)


async def actions_on(conn: AsyncConnection, email_ids: Sequence[int]) -> Mapping[int, Sequence[ActionView]]:
    """Return the newest actions on each of these e-mails."""
    ids = func.unnest(literal(email_ids, ARRAY(BigInteger)))
    each = ids.table_valued("email_id", name="each").render_derived()
    theirs = select(*brief(OperatorAction.__table__.c)).where(OperatorAction.email_id == each.c.email_id)
    newest = theirs.order_by(OperatorAction.id.desc()).limit(MAX_SHOWN).lateral()
    found: dict[int, list[ActionView]] = {}
    query = select(*newest.c).select_from(each.join(newest, true())).order_by(newest.c.id.desc())
    for row in await conn.execute(query):
        found.setdefault(row.email_id, []).append(ActionView.model_validate(row))
    return found
