"""What Zendesk has: webhooks that were lost, a back-fill that does not end, suspended e-mails."""

from datetime import timedelta

from sqlalchemy import Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from service.alerts.condition import Condition, clean, clock, number
from service.backfill.lost import lost_webhooks
from service.config.settings import Settings
from service.formatting import duration
from service.zendesk.rate_limit import key_of

# A back-fill may fail for so long, or for three of its pauses.
LEAST_LATE = timedelta(minutes=30)
RECENT = timedelta(days=1)


async def find(conn: AsyncConnection, settings: Settings) -> list[Condition]:
    """Report lost webhooks, an account that is not searched, and new suspended e-mails."""
    conditions = [*await _find_lost(conn), *await _find_suspended(conn)]
    if settings.backfill_minutes and settings.account_url:
        account = key_of(URL(settings.account_url))
        limit = max(3 * timedelta(minutes=settings.backfill_minutes), LEAST_LATE)
        conditions += [
            *await _find_late(conn, account, limit),
            *await _find_suspended_unread(conn, account),
        ]
    return conditions


async def _find_lost(conn: AsyncConnection) -> list[Condition]:
    lost = await lost_webhooks(conn)
    if not lost.number or lost.found_at is None:
        return []
    detail = (
        f"Found in Zendesk within a day, without a webhook: {number(lost.number, 'e-mail')}, the last at"
        f" {clock(lost.found_at)}. All of them are kept.\n"
        "Check the trigger and the webhook in Zendesk (Admin Center): a condition may leave out some e-mails, or Zendesk"
        " gave up after failed deliveries."
    )
    summary = "Zendesk has e-mails that no webhook announced"
    return [Condition("lost", "", lost.number, summary, detail, lost.email_id)]


async def _find_late(conn: AsyncConnection, account: str, limit: timedelta) -> list[Condition]:
    row = (await conn.execute(_LATE, {"account": account, "limit": limit})).one_or_none()
    if row is None:
        return []
    reason = (
        f"Its latest error is {clean(row.error_code, 50)}: {clean(row.error)}\n" if row.error_code else ""
    )
    detail = (
        f"Zendesk was last searched for e-mails without a webhook {duration(row.age)} ago.\n{reason}"
        "`holdfast backfill` searches now, and shows what it meets; `holdfast check` tells whether Zendesk can be reached."
    )
    return [Condition("backfill", "", 1, "Zendesk is not searched for lost e-mails", detail)]


async def _find_suspended(conn: AsyncConnection) -> list[Condition]:
    row = (await conn.execute(_SUSPENDED)).one()
    if not row.number:
        return []
    detail = (
        f"Held back as suspended since yesterday: {number(row.number, 'e-mail')}. Holdfast keeps suspended e-mails as they"
        " are; Zendesk makes no tickets of them, and deletes them after two weeks.\n"
        "Look at Zendesk's view of suspended tickets, and recover those that are no spam."
    )
    return [Condition("suspended", "", row.number, "Zendesk holds back new e-mails as suspended", detail)]


async def _find_suspended_unread(conn: AsyncConnection, account: str) -> list[Condition]:
    row = (await conn.execute(_SUSPENDED_UNREAD, {"account": account, "recent": RECENT})).one_or_none()
    if row is None:
        return []
    reason = (
        f"The latest error is {clean(row.error_code, 50)}: {clean(row.error)}\n" if row.error_code else ""
    )
    detail = (
        f"Not all of Zendesk's suspended e-mails could be kept for {duration(row.age)}. Zendesk deletes each one after two"
        f" weeks.\n{reason}"
        "The warnings `backfill_failed` and `backfill_list_not_read` in the log of a worker say why."
    )
    return [Condition("suspended", "late", 1, "Zendesk's suspended e-mails are not kept", detail)]


_LATE = text("""
SELECT now() - coalesce(checked_at, began_at) AS age, error_code, error FROM sources
WHERE account = :account AND (coalesce(checked_at, began_at) < now() - :limit OR failed_at < now() - :limit)
""").bindparams(bindparam("limit", type_=Interval()))
_SUSPENDED_UNREAD = text("""
SELECT now() - coalesce(suspended_at, began_at) AS age, error_code, error FROM sources
WHERE account = :account AND coalesce(suspended_at, began_at) < now() - :recent
""").bindparams(bindparam("recent", type_=Interval()))
_SUSPENDED = text("""
SELECT count(*) AS number FROM (
    SELECT FROM suspended_emails
    WHERE gone_at IS NULL AND coalesce(created_at, found_at) > now() - :recent LIMIT 10000
) AS held
""").bindparams(bindparam("recent", RECENT, Interval()))
