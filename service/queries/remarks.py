"""What else the ledger shows: suspended e-mails, e-mails whose webhook was lost, and changes in Zendesk."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.postgres.email_tables import UNANNOUNCED
from service.postgres.engine import connect
from service.postgres.listed import keys_of, statement
from service.postgres.rows import BRIEF_TEXT
from service.postgres.source_tables import LOST
from service.queries.views import View

MAX_ACCOUNTS = 20
COUNT_CAP = 10_000
LIST_LIMIT = 50


class SuspendedView(View):
    """An e-mail that Zendesk holds back as suspended."""

    id: int
    account: str
    suspended_id: str
    subject: str | None
    from_name: str | None
    from_address: str | None
    recipient: str | None
    cause: str | None
    text: str = Field(description="Cut to 300 characters")
    files: int
    created_at: datetime | None
    found_at: datetime


class ChangedView(View):
    """An e-mail that Zendesk changed after it was kept; our copy stays as it was."""

    email_id: int
    zendesk_ticket_id: str
    subject: str | None
    from_email: str | None
    zendesk_state: str
    zendesk_state_at: datetime | None


class LostView(View):
    """An e-mail whose webhook was lost: no webhook announced it."""

    email_id: int
    zendesk_ticket_id: str
    subject: str | None
    from_email: str | None
    origin: str
    received_at: datetime


class RemarksView(View):
    """What else an operator may want to see: suspended e-mails, lost webhooks, changes in Zendesk."""

    suspended: Sequence[SuspendedView]
    lost: Sequence[LostView]
    changed: Sequence[ChangedView]


class LostCount(NamedTuple):
    """The number of e-mails whose webhook was lost, and of those found in the last 24 hours."""

    number: int
    of_the_day: int
    is_capped: bool


async def count_lost(conn: AsyncConnection, account_id: str | None) -> LostCount:
    """Count the e-mails whose webhook was lost, among the newest that no webhook announced."""
    row = (await conn.execute(_COUNT_LOST, {"keys": keys_of(account_id)})).one()
    return LostCount(row.number, row.of_the_day, row.examined == COUNT_CAP)


async def count_suspended(conn: AsyncConnection, account: str) -> int:
    """Count the suspended e-mails that Zendesk still holds, up to a cap."""
    return await conn.scalar(_COUNT_SUSPENDED, {"account": account}) or 0


async def get_remarks(engine: AsyncEngine) -> RemarksView:
    """Return the newest suspended e-mails, lost webhooks, and changes in Zendesk."""
    async with connect(engine) as conn:
        suspended = (await conn.execute(_SUSPENDED)).mappings().all()
        found = (await conn.execute(_LOST)).mappings().all()
        changed = (await conn.execute(_CHANGED)).mappings().all()
    return RemarksView(
        suspended=[SuspendedView(**row) for row in suspended],
        lost=[LostView(**row) for row in found],
        changed=[ChangedView(**row) for row in changed],
    )


_COUNT_SUSPENDED = statement(f"""
SELECT count(*) FROM (
    SELECT FROM suspended_emails WHERE account = :account AND gone_at IS NULL
    ORDER BY account, created_at LIMIT (SELECT {COUNT_CAP})
) AS held
""")  # noqa: S608 numbers of ours
_SUSPENDED = statement(f"""
SELECT held.* FROM (SELECT account FROM sources ORDER BY account LIMIT {MAX_ACCOUNTS}) AS source
CROSS JOIN LATERAL (
    SELECT id, account, left(suspended_id, {BRIEF_TEXT}) AS suspended_id, left(subject, {BRIEF_TEXT}) AS subject,
        left(from_name, {BRIEF_TEXT}) AS from_name, left(from_address, {BRIEF_TEXT}) AS from_address,
        left(recipient, {BRIEF_TEXT}) AS recipient, left(cause, {BRIEF_TEXT}) AS cause,
        left(text, {BRIEF_TEXT}) AS text,
        CASE json_typeof(files) WHEN 'array' THEN json_array_length(files) ELSE 0 END AS files,
        created_at, found_at
    FROM suspended_emails WHERE account = source.account AND gone_at IS NULL
    ORDER BY created_at DESC NULLS LAST LIMIT {LIST_LIMIT}
) AS held
ORDER BY created_at DESC NULLS LAST LIMIT {LIST_LIMIT}
""")  # noqa: S608 likewise
# Under the name of the table, which LOST means.
_UNANNOUNCED = f"""(
    SELECT id, account_id, zendesk_ticket_id, subject, from_email, origin, received_at, sent_at, raw_body
    FROM incoming_emails WHERE {UNANNOUNCED} ORDER BY id DESC LIMIT (SELECT {COUNT_CAP})
) AS incoming_emails"""  # noqa: S608 likewise
_COUNT_LOST = statement(f"""
SELECT count(*) AS examined, count(*) FILTER (WHERE is_lost) AS number,
    count(*) FILTER (WHERE is_lost AND received_at > now() - interval '24 hours') AS of_the_day
FROM (
    SELECT received_at, {LOST} AS is_lost FROM {_UNANNOUNCED} WHERE coalesce(account_id, '') = ANY (:keys)
) AS newest
""")  # noqa: S608 likewise
_LOST = statement(f"""
SELECT email.id AS email_id, left(zendesk_ticket_id, {BRIEF_TEXT}) AS zendesk_ticket_id,
    left(coalesce(said.subject, email.subject), {BRIEF_TEXT}) AS subject,
    left(coalesce(said.from_address, email.from_email), {BRIEF_TEXT}) AS from_email, left(origin, {BRIEF_TEXT}) AS origin, received_at
FROM (SELECT * FROM {_UNANNOUNCED} WHERE {LOST} ORDER BY id DESC LIMIT {LIST_LIMIT}) AS email
LEFT JOIN messages AS said ON said.email_id = email.id
ORDER BY email.id DESC
""")  # noqa: S608 likewise
_CHANGED = statement(f"""
SELECT email.id AS email_id, left(zendesk_ticket_id, {BRIEF_TEXT}) AS zendesk_ticket_id,
    left(coalesce(said.subject, email.subject), {BRIEF_TEXT}) AS subject,
    left(coalesce(said.from_address, email.from_email), {BRIEF_TEXT}) AS from_email,
    left(zendesk_state, {BRIEF_TEXT}) AS zendesk_state, zendesk_state_at
FROM (
    SELECT id, zendesk_ticket_id, subject, from_email, zendesk_state, zendesk_state_at FROM incoming_emails
    WHERE zendesk_state IS NOT NULL ORDER BY id DESC LIMIT {LIST_LIMIT}
) AS email
LEFT JOIN messages AS said ON said.email_id = email.id
ORDER BY email.id DESC
""")  # noqa: S608 words of ours
