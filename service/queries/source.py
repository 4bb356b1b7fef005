"""What Zendesk itself lists, against the e-mails that are here: the ledger, and the state of the search."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from yarl import URL

from service.config.settings import Settings
from service.postgres.engine import connect
from service.postgres.listed import statement
from service.queries.accounts import SourceView, list_accounts, view_account
from service.queries.calls import ApiUseView, api_use_of
from service.queries.completeness import CompletenessState, completeness_of
from service.queries.days import (
    CURSOR,
    AccountKey,
    DayPage,
    DayView,
    ListedView,
    ListName,
    ListPage,
    count_days,
    list_day,
    list_days,
)
from service.queries.views import View
from service.zendesk.rate_limit import key_of

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class SourceFilter(BaseModel):
    """Which days to show: the newest ones, those before a day, or one day with a list of its e-mails."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: date | None = Field(None, description="`next_before` of the previous page of days")
    day: date | None = Field(None, description="Only this day, in UTC, with the list of `list`")
    account: str | None = Field(
        None,
        max_length=300,
        pattern="^[!-~]*$",
        description="With `day`: the host of the account; by default the first one",
    )
    list: ListName = Field(
        "open", description="With `day`: which column to list; `open`: missing and failed e-mails"
    )
    cursor: str | None = Field(
        None,
        description="With `day`: `next_cursor` of the previous page of the list",
        pattern=f"^{CURSOR.pattern}$",
    )

    @field_validator("before", "day", mode="before")
    @classmethod
    def _written(cls, value: object) -> object:
        if isinstance(value, str) and not _DAY.fullmatch(value):
            raise ValueError("is no day; write it as 2025-11-03")
        return value


class Ledger(View):
    """Whether every e-mail that Zendesk has is kept, day by day."""

    verdict: str
    state: CompletenessState
    missing: int
    unknown_tickets: int
    unread_tickets: int
    failed: int
    in_work: int
    since: datetime | None
    checked_at: datetime | None
    api_use: ApiUseView | None = Field(
        description="Calls to Zendesk's API in this minute; null before the first one"
    )
    accounts: Sequence[SourceView]
    days: Sequence[DayView] = Field(description="Newest first")
    next_before: date | None = Field(description="`before` of the next page of days; null on the last page")
    emails: Sequence[ListedView] | None = Field(description="With `day`: the list; else null")
    next_cursor: str | None = Field(description="`cursor` of the next page of the list")


async def get_ledger(engine: AsyncEngine, settings: Settings, wanted: SourceFilter | None = None) -> Ledger:
    """Return the ledger; raises Rejected (400) for a wrong cursor."""
    wanted = wanted or SourceFilter.model_validate({})
    async with connect(engine) as conn:
        verdict = await completeness_of(conn, settings)
        rows = await list_accounts(conn, _own_account(settings))
        keys = [AccountKey(*(row[name] for name in AccountKey._fields)) for row in rows]
        accounts = [await view_account(conn, row) for row in rows]
        if wanted.day is None:
            today = (await conn.scalar(_NOW)).astimezone(UTC).date()
            page, emails = await list_days(conn, keys, today, wanted.before), None
        else:
            keys = _chosen(keys, wanted.account)
            found = [await count_days(conn, key, [wanted.day]) for key in keys]
            page = DayPage([view for views in found for view in views], None)
            emails = await _list(conn, keys, wanted, wanted.day)
        use = await api_use_of(conn, settings)
    return Ledger(
        verdict=verdict.sentence,
        **verdict.model_dump(include=_OF_VERDICT),
        api_use=use,
        accounts=accounts,
        days=page.days,
        next_before=page.next_before,
        emails=emails and emails.emails,
        next_cursor=emails and emails.next_cursor,
    )


def _own_account(settings: Settings) -> str:
    """Return the key of the account in the settings, which is listed first."""
    return key_of(URL(settings.account_url)) if settings.account_url else ""


def _chosen(keys: list[AccountKey], account: str | None) -> list[AccountKey]:
    """Return the account of a list: the first one, unless another is named; none if there is no such account."""
    return keys[:1] if account is None else [key for key in keys if key.account == account]


async def _list(
    conn: AsyncConnection, keys: Sequence[AccountKey], wanted: SourceFilter, day: date
) -> ListPage:
    if not keys:
        return ListPage([], None)
    return await list_day(conn, keys[0], day, wanted.list, wanted.cursor)


_OF_VERDICT = {
    "state",
    "missing",
    "unknown_tickets",
    "unread_tickets",
    "failed",
    "in_work",
    "since",
    "checked_at",
}
_NOW = statement("SELECT now()")
