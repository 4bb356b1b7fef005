"""The filter of webhooks in quarantine as SQL."""

from sqlalchemy import ColumnElement, TextClause, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import DISMISSED_WEBHOOK, IN_QUARANTINE, QuarantinedWebhook
from service.postgres.search import COUNTED, Count, inline_number
from service.postgres.selection import WebhookSelection


def conditions(wanted: WebhookSelection) -> list[ColumnElement[bool] | TextClause]:
    """Return the conditions of a filter; the first one is the predicate of a partial index."""
    row = QuarantinedWebhook
    state = (
        "replayed_at IS NOT NULL"
        if wanted.replayed
        else DISMISSED_WEBHOOK
        if wanted.dismissed
        else IN_QUARANTINE
    )
    chosen: list[ColumnElement[bool] | TextClause] = [text(state)]
    if wanted.error_code is not None:
        chosen.append(row.error_code == wanted.error_code)
    if wanted.received_after:
        chosen.append(row.received_at >= wanted.received_after)
    if wanted.received_before:
        chosen.append(row.received_at < wanted.received_before)
    return chosen


async def count_webhooks(conn: AsyncConnection, wanted: WebhookSelection) -> Count:
    """Count the matches up to the number that lists of e-mails count."""
    some = select(literal(1)).select_from(QuarantinedWebhook).where(*conditions(wanted))
    counted = select(func.count()).select_from(some.limit(inline_number(COUNTED)).subquery())
    number = (await conn.execute(counted)).scalar_one()
    return Count(number, number == COUNTED)
