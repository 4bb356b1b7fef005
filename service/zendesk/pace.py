"""The pace of calls while few of Zendesk's minute are left: all workers together spread them over the rest of it.

Zendesk refuses the calls of every program once its minute is used up: those of agents' tools, too. So each caller gets a
place in time. The first ones wait for theirs, the others ask again at theirs. Callers with a reserve, such as the
back-fill, get none: they go on in the next minute.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import NamedTuple

import structlog
from sqlalchemy import DateTime, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.engine import transaction
from service.zendesk.rate_limit import BUDGET, LEFT_TO_OTHERS, WINDOW_SECONDS, CallsLeft

# A caller waits for a place so near; for a later one, its e-mail goes back to the queue meanwhile.
MOST_DELAY = timedelta(seconds=5)
# Ends of the same minute differ by less, because answers tell them in whole seconds.
_SAME_SECONDS = 2

_READ = text(f"""
    SELECT clocked.*, ceil((calls_left - calls_per_minute / {LEFT_TO_OTHERS}) * :percent / 100.0)::int AS ours,
        {BUDGET} - used AS free
    FROM (SELECT *, clock_timestamp() AS at FROM api_budgets WHERE account = :account FOR UPDATE) AS clocked
""")  # noqa: S608 numbers of ours
_WRITE = text("""
    UPDATE api_budgets SET
        used = used + :granted, calls_left = greatest(0, calls_left - :granted),
        next_call_at = :next_call_at, next_retry_at = :next_retry_at, paced_since = coalesce(paced_since, :at)
    WHERE account = :account
""").bindparams(
    *(bindparam(name, type_=DateTime(timezone=True)) for name in ("next_call_at", "next_retry_at", "at"))
)
# When an answer is noted, its minute may have passed: only the time between the call and the note is known. So the end of
# its minute has two bounds: it is after `ends_after`, and at or before `ends_by`, but for whole seconds. A stored end is
# one of the second kind. In one minute, fewer and fewer calls are left: the least of its answers is the latest, and grants
# are counted already. An answer that may be of this minute or of another one counts for this: too few calls do no harm.
_NOTE = text(f"""
    UPDATE api_budgets AS budgets SET
        calls_left = CASE WHEN is_next THEN :remaining ELSE least(budgets.calls_left, :remaining) END,
        resets_at = CASE WHEN is_next THEN ends_by ELSE least(budgets.resets_at, ends_by) END
    FROM (
        SELECT
            account, ends_by,
            resets_at IS NULL OR resets_at > at + interval '{WINDOW_SECONDS} seconds'
                OR ends_after > resets_at + interval '{_SAME_SECONDS} seconds' AS is_next,
            ends_after < resets_at - interval '{WINDOW_SECONDS - _SAME_SECONDS} seconds' AS is_earlier
        FROM (
            SELECT
                *, at + CAST(:ends_by AS interval) AS ends_by,
                statement_timestamp() + CAST(:ends_after AS interval) AS ends_after
            FROM (SELECT *, clock_timestamp() AS at FROM api_budgets WHERE account = :account FOR UPDATE) AS locked
        ) AS clocked
    ) AS minute
    WHERE budgets.account = minute.account AND (is_next OR NOT is_earlier)
""")  # noqa: S608 numbers of ours

log = structlog.get_logger()


class LeftOfAccount(NamedTuple):
    """What the answer to a call told of an account's minute."""

    account: str
    left: CallsLeft
    sent_at: float  # of the call, by this process's monotonic clock

    def ends_after(self, now: float) -> float:
        """Return the seconds to the minute's end at the least: as if Zendesk had counted the call when it was sent."""
        return self.left.seconds - (now - self.sent_at)


class Minute(NamedTuple):
    """The rest of Zendesk's minute: what may be used of it, and the places that are given already."""

    at: datetime
    ends_at: datetime
    calls: int  # that we may make in it
    next_call_at: datetime | None
    next_retry_at: datetime | None


class Wait(NamedTuple):
    """The seconds that a caller waits, and whether it may call then; otherwise it asks again."""

    seconds: float
    may_call: bool


class Places(NamedTuple):
    """The places of callers: when the first ones may call, and when the others ask again; and the next place of both."""

    calls: Sequence[datetime]
    retries: Sequence[datetime]
    next_call_at: datetime
    next_retry_at: datetime


def spread(minute: Minute, asked: int, *, has_reserve: bool) -> Places:
    """Give each of so many callers a place in the rest of the minute."""
    every = max(timedelta(), minute.ends_at - minute.at) / max(1, minute.calls)
    # A later one is from before the minute had more calls, or from before the database's clock was set back.
    first = min(max(minute.next_call_at or minute.at, minute.at), minute.at + MOST_DELAY + every)
    retry = minute.next_retry_at or minute.at
    if has_reserve or minute.calls <= 0:
        return Places([], [minute.ends_at] * asked, first, retry)
    places = [first + number * every for number in range(min(asked, minute.calls))]
    calls = [place for place in places if place <= min(minute.at + MOST_DELAY, minute.ends_at)]
    next_call = first + len(calls) * every
    retry = max(retry, next_call)
    retries = [min(retry + number * every, minute.ends_at) for number in range(asked - len(calls))]
    return Places(calls, retries, next_call, min(retry + len(retries) * every, minute.ends_at))


async def take_places(
    conn: AsyncConnection, account: str, percent: int, asked: int, *, has_reserve: bool
) -> Sequence[Wait]:
    """Give places to callers of an account of which few calls are left."""
    async with transaction(conn):
        row = (await conn.execute(_READ, {"account": account, "percent": percent})).one()
        calls = min(row.ours, row.free)
        minute = Minute(row.at, row.resets_at, calls, row.next_call_at, row.next_retry_at)
        places = spread(minute, asked, has_reserve=has_reserve)
        new = {"granted": len(places.calls), "at": row.at, "account": account}
        nexts = {"next_call_at": places.next_call_at, "next_retry_at": places.next_retry_at}
        await conn.execute(_WRITE, {**new, **nexts})
    if row.paced_since is None:
        seconds = round((row.resets_at - row.at).total_seconds(), 1)
        log.info("zendesk_calls_slowed", left=row.calls_left, limit=row.calls_per_minute, seconds=seconds)
    granted = [Wait((place - row.at).total_seconds(), may_call=True) for place in places.calls]
    return [*granted, *(Wait((place - row.at).total_seconds(), may_call=False) for place in places.retries)]


async def note_calls_left(conn: AsyncConnection, told: Sequence[LeftOfAccount]) -> Sequence[None]:
    """Save how many calls accounts have left; of answers at the same time, what the latest minute has least."""
    now, by_account = monotonic(), defaultdict(list)
    for each in told:
        by_account[each.account].append(each)
    for account, answers in sorted(by_account.items()):
        ends_after = max(each.ends_after(now) for each in answers)
        earlier = ends_after - (WINDOW_SECONDS - _SAME_SECONDS)
        latest = [each.left for each in answers if each.ends_after(now) >= earlier]
        left = {
            "remaining": min(left.remaining for left in latest),
            "ends_by": timedelta(seconds=min(left.seconds for left in latest)),
            "ends_after": timedelta(seconds=ends_after),
        }
        await conn.execute(_NOTE, {"account": account, **left})
    return [None] * len(told)
