"""The days of the ledger: what Zendesk lists of each day, against the e-mails that are here; and the lists behind it."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field
from sqlalchemy import RowMapping, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.formatting import counted, number
from service.postgres.listed import FRESH, IDENTIFIED, STATES, STATUS, email_of, keys_of, statement
from service.postgres.rows import BRIEF_TEXT
from service.queries.views import View

PAGE_DAYS = 10
DAY_CAP = 20_000  # e-mails counted per day
LIST_LIMIT = 100
DAY = timedelta(days=1)

ListName = Literal["open", "in_zendesk", "kept", "in_work", "failed", "dismissed", "missing", "unlisted"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Microseconds since the epoch, a ticket and a comment: the last row of a page.
CURSOR = re.compile(r"(-?[0-9]{1,17})-([0-9A-Za-z]{1,64})-([0-9A-Za-z]{1,64})")


class AccountKey(NamedTuple):
    """What the statements need to know of an account."""

    account: str
    account_id: str | None
    complete_since: datetime | None
    searched_until: datetime | None  # later than the watermark where Zendesk listed nothing since


class DayView(View):
    """The e-mails of one day; `in_zendesk` is the sum of `kept`, `in_work`, `failed`, `dismissed` and `missing`."""

    account: str
    day: date = Field(description="In UTC, by the time at which the comment was made")
    in_zendesk: int = Field(description="Comments by e-mail that Zendesk lists")
    kept: int = Field(description="Of these, completed e-mails: all files are stored")
    in_work: int = Field(description="Of these, e-mails whose job has not ended")
    failed: int = Field(description="Of these, failed e-mails, and completed ones that lack files")
    dismissed: int = Field(description="Of these, failed e-mails that a person dismissed")
    missing: int = Field(description="Of these, comments without an e-mail here")
    unread: int = Field(
        description="Tickets that Zendesk refuses to the credentials, and that may have e-mails of that day"
    )
    suspended: int = Field(description="Suspended e-mails of that day that Zendesk still holds")
    searched: Literal["whole", "part", "not"] = Field(
        description="How much of the day was searched at Zendesk"
    )
    unlisted: int | None = Field(
        description="E-mails received on that day that Zendesk does not list, deleted ones for example;"
        " null for days that were not searched"
    )
    capped: bool = Field(description=f"Whether a count stopped at {DAY_CAP:,}")

    @property
    def is_complete(self) -> bool:
        """Whether all e-mails of the whole day are kept, or dismissed by a person."""
        is_known = self.searched == "whole" and not (self.capped or self.unread)
        return is_known and self.kept + self.dismissed == self.in_zendesk

    @property
    def sentence(self) -> str:
        """Tell whether all e-mails of the day are kept, for people."""
        if self.searched == "not":
            return "This day was not searched at Zendesk yet."
        if self.is_complete:
            return f"Every e-mail that Zendesk has of this day is kept{' or dismissed' if self.dismissed else ''}."
        failed, in_work = number(self.failed, self.capped), number(self.in_work, self.capped)
        lacks = [
            f"{counted(self.missing, 'e-mail', capped=self.capped)} missing" if self.missing else "",
            f"{failed} failed" if self.failed else "",
            f"{in_work} in work" if self.in_work else "",
            f"{counted(self.unread, 'ticket')} not read" if self.unread else "",
        ]
        found = ", ".join(filter(None, lacks)) or "nothing missing so far"
        return (
            f"{'All' if self.searched == 'whole' else 'A part'} of this day was searched at Zendesk: {found}."
        )


class ListedView(View):
    """A comment by e-mail of a day; `state` is its column of the day."""

    account: str
    ticket_id: str
    comment_id: str
    created_at: datetime = Field(
        description="When the comment was made; for `unlisted`, when it was received"
    )
    state: Literal["kept", "in_work", "failed", "dismissed", "missing", "unlisted"]
    email_id: int | None
    subject: str | None
    from_email: str | None
    origin: str | None = Field(description="What made the e-mail: `webhook`, `lookup`, `backfill`")
    error_code: str | None


class DayPage(NamedTuple):
    """Some days, newest first, and the day before which the next page begins."""

    days: Sequence[DayView]
    next_before: date | None


class ListPage(NamedTuple):
    """Some comments of a day, and the cursor of the next ones."""

    emails: Sequence[ListedView]
    next_cursor: str | None


async def list_days(
    conn: AsyncConnection, accounts: Sequence[AccountKey], today: date, before: date | None = None
) -> DayPage:
    """Count the newest days, or those before a day. Where Zendesk lists nothing for long, the next page is further back."""
    if before == date.min:
        return DayPage([], None)
    newest = min(today, before - DAY) if before else today
    firsts = [await _first(conn, account) for account in accounts]
    oldest = min((first for first in firsts if first), default=None)
    if oldest is None or oldest > newest:
        return DayPage([], None)
    days = [newest - place * DAY for place in range(min(PAGE_DAYS, (newest - oldest).days + 1))]
    found = [view for account in accounts for view in await count_days(conn, account, days)]
    found.sort(key=lambda view: view.day, reverse=True)
    olders = [await _newest_before(conn, account, days[-1]) for account in accounts]
    older = max((day for day in olders if day), default=None)
    return DayPage(found, older + DAY if older else None)


async def count_days(conn: AsyncConnection, account: AccountKey, days: Sequence[date]) -> Sequence[DayView]:
    """Count the e-mails of some days."""
    given = {**_given(account), "days": [_start(day) for day in days]}
    rows = (await conn.execute(_COUNT, given)).mappings().all()
    return [_view(account, day, row) for day, row in zip(days, rows, strict=True)]


async def list_day(
    conn: AsyncConnection, account: AccountKey, day: date, name: ListName, cursor: str | None = None
) -> ListPage:
    """Return the comments of a day that are in one of its columns; `open` are missing and failed ones.

    Raises Rejected (400) for a cursor that is none.
    """
    after = _read_cursor(cursor)
    given = {**_given(account), "day": _start(day), **after}
    if name == "unlisted":
        rows = (await conn.execute(_UNLISTED_LIST, given)).mappings().all()
        return ListPage([_listed(account, row) for row in rows], None)
    rows = (await conn.execute(_LISTS[name], given)).mappings().all()
    shown = rows[:LIST_LIMIT]
    is_full = len(rows) > LIST_LIMIT
    last = shown[-1] if is_full else (await conn.execute(_END, given)).mappings().one_or_none()
    return ListPage([_listed(account, row) for row in shown], _cursor_at(last) if last else None)


def _given(account: AccountKey) -> dict[str, Any]:
    return {
        "account": account.account,
        "keys": keys_of(account.account_id),
        "since": account.complete_since,
        "until": account.searched_until,
    }


def _view(account: AccountKey, day: date, row: RowMapping) -> DayView:
    return DayView(
        account=account.account,
        day=day,
        **{name: row[name] for name in ("in_zendesk", *STATES, "unread", "suspended")},
        searched=_searched(account, day),
        unlisted=row["unlisted"] if _searched(account, day) != "not" else None,
        capped=DAY_CAP in {row["in_zendesk"], row["suspended"], row["received"]},
    )


def _searched(account: AccountKey, day: date) -> Literal["whole", "part", "not"]:
    """Say how much of a day was searched at Zendesk."""
    since, until = account.complete_since, account.searched_until
    if since is None or until is None:
        return "not"
    first, last = since.astimezone(UTC), until.astimezone(UTC)
    if first <= _start(day) and day < last.date():
        return "whole"
    return "part" if first.date() <= day <= last.date() else "not"


def _listed(account: AccountKey, row: RowMapping) -> ListedView:
    values = {name: row[name] for name in ListedView.model_fields if name != "account"}
    return ListedView(account=account.account, **values)


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _cursor_at(row: RowMapping) -> str:
    microseconds = (row["created_at"] - _EPOCH) // timedelta(microseconds=1)
    return f"{microseconds}-{row['ticket_id']}-{row['comment_id']}"


def _read_cursor(cursor: str | None) -> dict[str, Any]:
    if cursor is None:
        return {"after": None, "after_ticket": "", "after_comment": ""}
    if not (match := CURSOR.fullmatch(cursor)):
        raise Rejected(400, "bad_cursor", "The cursor is not from a page.")
    microseconds, ticket, comment = match.groups()
    try:
        after = _EPOCH + timedelta(microseconds=int(microseconds))
    except OverflowError:
        raise Rejected(400, "bad_cursor", "The cursor is not from a page.") from None
    return {"after": after, "after_ticket": ticket, "after_comment": comment}


async def _first(conn: AsyncConnection, account: AccountKey) -> date | None:
    """Return the first day that the ledger of an account has."""
    first = await conn.scalar(_OLDEST, {"account": account.account})
    times = [each.astimezone(UTC).date() for each in (first, account.complete_since) if each]
    return min(times, default=None)


async def _newest_before(conn: AsyncConnection, account: AccountKey, day: date) -> date | None:
    """Return the newest day before this one that has e-mails in Zendesk."""
    newest = await conn.scalar(_NEWEST_BEFORE, {"account": account.account, "day": _start(day)})
    return newest.astimezone(UTC).date() if newest else None


_OLDEST = statement(
    "SELECT created_at FROM source_emails WHERE account = :account ORDER BY created_at LIMIT 1"
)
_NEWEST_BEFORE = statement(
    "SELECT created_at FROM source_emails WHERE account = :account AND created_at < :day"
    " ORDER BY created_at DESC LIMIT 1"
)
# Of the e-mails of a day, those that Zendesk does not list. Only what was looked up at Zendesk, and has a message, is surely
# an e-mail.
_UNLISTED = """
LEFT JOIN LATERAL (
    SELECT created_at FROM source_emails
    WHERE is_ours AND NOT is_listed AND account = :account
        AND ticket_id = listed.ticket_id AND comment_id = listed.comment_id
    LIMIT 1
) AS elsewhere ON true
LEFT JOIN LATERAL (
    SELECT email_id AS id FROM messages
    WHERE is_ours AND NOT is_listed AND elsewhere.created_at IS NULL AND email_id = received_id
    LIMIT 1
) AS unlisted ON true
"""


def _day(start: str, examined: str) -> str:
    """Write the FROM of a day in SQL: its comments, as `listed`, each with its e-mail, and its other e-mails.

    Most comments are of e-mails that were received on the same day. All of these are read and matched at once, and an index
    is asked for the others alone: that takes a quarter of the time. GROUP BY, since a plan for few rows would join each
    with each.

    The e-mails were received while Zendesk was searched: their comments are older, and so the search has passed them.
    """
    return f"""
    FROM (
        SELECT ticket_id, comment_id, bool_or(is_listed) AS is_listed, max(created_at) AS created_at,
            max(id) AS received_id, max(received_at) AS received_at, max(status) AS received_status,
            coalesce(bool_or(is_ours), false) AS is_ours
        FROM (
            SELECT ticket_id, comment_id, true AS is_listed, created_at, CAST(NULL AS bigint) AS id,
                CAST(NULL AS timestamptz) AS received_at, CAST(NULL AS text) AS status, CAST(NULL AS boolean) AS is_ours,
                CAST(NULL AS bigint) AS alone
            FROM ({examined}) AS examined
            UNION ALL
            SELECT zendesk_ticket_id, comment_id, false, NULL, id, received_at, processing_status, is_ours,
                CASE WHEN is_ours AND is_first THEN NULL ELSE id END
            FROM (
                SELECT every_email.*
                FROM unnest(ARRAY['received', 'queued', 'processing', 'completed', 'failed']) AS every(status)
                CROSS JOIN LATERAL (
                    SELECT id, zendesk_ticket_id, comment_id, received_at, {STATUS},
                        comment_id <> '' AND coalesce(account_id, '') = ANY (:keys) AS is_ours,
                        identified AND coalesce(account_id, '') = (:keys)[1] AS is_first
                    FROM incoming_emails
                    WHERE incoming_emails.processing_status = every.status
                    AND received_at >= greatest({start}, :since)
                    AND received_at < least({start} + interval '24 hours', :until)
                    ORDER BY received_at LIMIT {DAY_CAP}
                ) AS every_email
                LIMIT {DAY_CAP}
            ) AS received
        ) AS row
        GROUP BY ticket_id, comment_id, alone
    ) AS listed {email_of(_IDENTIFIED)}
    """  # noqa: S608 words and numbers of ours


_IDENTIFIED = f"""
SELECT listed.received_id AS id, listed.received_status AS processing_status WHERE listed.received_id IS NOT NULL
UNION ALL
SELECT * FROM ({IDENTIFIED}) AS found WHERE listed.received_id IS NULL
"""  # noqa: S608 words of ours
_FILTERS = ", ".join(
    f"count(*) FILTER (WHERE is_listed AND {condition}) AS {name}" for name, condition in STATES.items()
)
_LISTED = f"""
SELECT ticket_id, comment_id, created_at FROM source_emails
WHERE account = :account AND created_at >= day.start AND created_at < day.start + interval '24 hours'
ORDER BY created_at LIMIT {DAY_CAP}
"""  # noqa: S608 a number of ours
_COUNT = statement(f"""
WITH {FRESH}
SELECT day.place, counted.*, refused.unread, held.suspended
FROM unnest(:days) WITH ORDINALITY AS day(start, place)
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE is_listed) AS in_zendesk, {_FILTERS},
        count(received_id) AS received, count(unlisted.id) AS unlisted
    {_day("day.start", _LISTED)} {_UNLISTED}
) AS counted
CROSS JOIN LATERAL (
    SELECT count(*) AS unread FROM refused_tickets
    WHERE account = :account AND since < day.start + interval '24 hours' AND refused_last_at >= day.start
) AS refused
CROSS JOIN LATERAL (
    SELECT count(*) AS suspended FROM (
        SELECT FROM suspended_emails WHERE account = :account AND gone_at IS NULL
        AND created_at >= day.start AND created_at < day.start + interval '24 hours'
        ORDER BY created_at LIMIT {DAY_CAP}
    ) AS those
) AS held
ORDER BY day.place
""")  # noqa: S608 words and numbers of ours
_ROW = f"""
    email.id AS email_id, left(coalesce(said.subject, mail.subject), {BRIEF_TEXT}) AS subject,
    left(coalesce(said.from_address, mail.from_email), {BRIEF_TEXT}) AS from_email, left(mail.origin, {BRIEF_TEXT}) AS origin,
    left(mail.error_code, {BRIEF_TEXT}) AS error_code
"""
_WITH_EMAIL = """
LEFT JOIN incoming_emails AS mail ON mail.id = email.id LEFT JOIN messages AS said ON said.email_id = email.id
"""
# From `:after` on, so many rows of the day as one page may read.
_EXAMINED = """
    SELECT ticket_id, comment_id, created_at FROM source_emails
    WHERE account = :account AND created_at < :day + interval '24 hours' AND created_at >= greatest(:day, :after)
    AND (:after IS NULL OR (created_at, ticket_id, comment_id) > (:after, :after_ticket, :after_comment))
    ORDER BY created_at, ticket_id, comment_id
"""
_STATE = " ".join(f"WHEN {condition} THEN '{name}'" for name, condition in STATES.items())


def _list_of(name: ListName) -> TextClause:
    """Make the statement of a list."""
    of = {"open": ("missing", "failed"), "in_zendesk": tuple(STATES)}.get(name, (name,))
    wanted = " OR ".join(f"({STATES[state]})" for state in of)
    return statement(f"""
    WITH {FRESH}
    SELECT email.ticket_id, email.comment_id, email.created_at, email.state, {_ROW}
    FROM (
        SELECT listed.*, email.id, CASE {_STATE} END AS state
        {_day(":day", f"{_EXAMINED} LIMIT {DAY_CAP}")}
        WHERE is_listed AND ({wanted})
        ORDER BY created_at, ticket_id, comment_id LIMIT {LIST_LIMIT + 1}
    ) AS email {_WITH_EMAIL}
    ORDER BY email.created_at, email.ticket_id, email.comment_id
    """)  # noqa: S608 words and numbers of ours


_LISTS: Mapping[ListName, TextClause] = {
    name: _list_of(name) for name in get_args(ListName) if name != "unlisted"
}
_END = statement(f"SELECT * FROM ({_EXAMINED} OFFSET {DAY_CAP - 1} LIMIT 1) AS last")  # noqa: S608 words of ours
_UNLISTED_LIST = statement(f"""
WITH {FRESH}
SELECT email.ticket_id, email.comment_id, email.received_at AS created_at, 'unlisted' AS state, {_ROW}
FROM (
    SELECT listed.*, unlisted.id {_day(":day", f"{_EXAMINED} LIMIT {DAY_CAP}")} {_UNLISTED}
    WHERE unlisted.id IS NOT NULL
    ORDER BY listed.received_at, unlisted.id LIMIT {LIST_LIMIT}
) AS email {_WITH_EMAIL}
ORDER BY email.received_at, email.id
""")  # noqa: S608 words and numbers of ours
