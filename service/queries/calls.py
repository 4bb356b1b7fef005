"""The calls to Zendesk's API in this minute, and the budget that all workers share."""

from pydantic import Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from service.config.settings import Settings
from service.formatting import duration, number
from service.queries.views import View
from service.zendesk.rate_limit import IS_OPEN, IS_PACED, budget_of, key_of

_USE = text(f"""
    SELECT
        calls_per_minute,
        CASE WHEN {IS_OPEN} THEN used ELSE 0 END AS used,
        CASE WHEN {IS_OPEN} THEN extract(epoch FROM window_ends_at - at)::float8 END AS seconds,
        CASE WHEN {IS_PACED} THEN extract(epoch FROM resets_at - at)::float8 END AS slowed_seconds,
        CASE WHEN {IS_PACED} THEN calls_left END AS left
    FROM (SELECT *, now() AS at FROM api_budgets WHERE account = :account) AS budgets
""")  # noqa: S608 words and numbers of ours


class ApiUseView(View):
    """The calls to Zendesk's API by all workers in this minute."""

    limit: int | None = Field(
        description="Calls per minute that the account allows to all programs; null until Zendesk has told it"
    )
    budget: int = Field(description="Calls per minute that all workers may make: ZENDESK_CALLS_PERCENT of it")
    used: int = Field(
        description="Calls in this minute; all of the budget during a pause that Zendesk asked for"
    )
    waiting: int = Field(description="Calls that were put off to later minutes")
    seconds_left: float | None = Field(description="Until the next minute begins; null before its first call")
    left: int | None = Field(
        description="Calls that Zendesk allows all programs until its own minute ends; null unless few are left"
    )
    slowed_seconds: float | None = Field(
        description="Until that end, while calls are slowed because few are left; null while they are not"
    )

    @property
    def remaining(self) -> int:
        return self.budget - self.used

    @property
    def sentence(self) -> str:
        """The use in a few words, as pages and commands show it."""
        put_off = f", {number(self.waiting)} put off" if self.waiting else ""
        if not self.limit and self.remaining <= 0:
            return f"paused, as Zendesk asked for it{put_off}"
        of_budget = f" of {number(self.budget)}" if self.limit else ""
        return f"{number(self.used)}{of_budget} in this minute{put_off}{self.slowed}"

    @property
    def slowed(self) -> str:
        """Say that calls are slowed, if they are."""
        if self.slowed_seconds is None:
            return ""
        left = f"Zendesk has {number(self.left or 0)} of {number(self.limit or 0)} left for all programs"
        return f"; slowed for {duration(self.slowed_seconds)}, as {left}"


async def api_use_of(conn: AsyncConnection, settings: Settings) -> ApiUseView | None:
    """Return the use of the account's API; None if no worker has called it yet."""
    if settings.account_url is None:
        return None
    row = (await conn.execute(_USE, {"account": key_of(URL(settings.account_url))})).one_or_none()
    if row is None:
        return None
    budget = budget_of(row.calls_per_minute, settings.zendesk_calls_percent)
    return ApiUseView(
        limit=row.calls_per_minute,
        budget=budget,
        used=min(row.used, budget),
        waiting=max(0, row.used - budget),
        seconds_left=row.seconds,
        left=row.left,
        slowed_seconds=row.slowed_seconds,
    )
