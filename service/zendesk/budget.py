"""The budget of calls to an account's API: a share of its rate limit, which all workers use up together.

https://developer.zendesk.com/api-reference/introduction/rate-limits/
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

import structlog
from sqlalchemy import Row, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from service.errors import HoldfastError, Transient
from service.postgres.batch import Batcher
from service.postgres.message_tables import ApiBudget
from service.telemetry.metrics import ZENDESK_CALLS_SLOWED
from service.zendesk.pace import LeftOfAccount, Wait, note_calls_left, take_places
from service.zendesk.rate_limit import (
    BUDGET,
    IS_OPEN,
    IS_PACED,
    MOST_PAUSE_SECONDS,
    NEARLY_FEW,
    PACE_ENDS,
    WINDOW_SECONDS,
    CallsLeft,
    key_of,
)

# The part of the API whose calls have a rate limit of their own.
EXPORTS = "exports"
# Of any plan: at most 2,500. A header could say anything.
MOST_LIMIT = 1_000_000
_REFUSED = "Zendesk's API takes no more requests for now"
# An account that refused an original is asked for one again after this time.
NO_ORIGINALS = timedelta(days=1)

# The clock is read after the wait for the lock, so that a call is counted in the minute in which it is made. Without a
# reserve, refused calls are counted too: the count says how many minutes the next refused caller has to wait. While few
# calls are left of Zendesk's own minute, it grants none: `pace` does.
_TAKE = text(f"""
    WITH locked AS MATERIALIZED (
        SELECT * FROM api_budgets WHERE account = :account FOR UPDATE
    ), clocked AS MATERIALIZED (
        SELECT *, clock_timestamp() AS at FROM locked
    ), minute AS (
        SELECT
            account, calls_per_minute, at, {BUDGET} AS budget,
            CASE WHEN {IS_OPEN} THEN window_ends_at ELSE at + interval '{WINDOW_SECONDS} seconds' END AS ends_at,
            CASE WHEN {IS_OPEN} THEN used ELSE 0 END AS used,
            coalesce(no_originals_at > at - CAST(:no_originals AS interval), false) AS refuses_originals,
            {IS_PACED} AS has_few, coalesce({PACE_ENDS}, false) AS ends_pace
        FROM clocked
    ), reserved AS (
        SELECT *, ceil(budget * (1 - CAST(:reserve AS float8)))::int AS calls FROM minute
    ), allowed AS (
        SELECT
            *, has_few AND used < calls AS is_paced,
            CASE WHEN has_few THEN 0 ELSE least(:asked, greatest(0, calls - used)) END AS granted
        FROM reserved
    )
    UPDATE api_budgets AS budgets
    SET
        window_ends_at = allowed.ends_at,
        used = allowed.used
            + CASE WHEN allowed.calls = allowed.budget AND NOT is_paced THEN :asked ELSE granted END,
        calls_left = greatest(0, calls_left - granted),
        paced_since = CASE WHEN NOT ends_pace THEN paced_since END
    FROM allowed
    WHERE budgets.account = allowed.account
    RETURNING
        allowed.used, allowed.calls, allowed.budget, allowed.calls_per_minute, allowed.refuses_originals, is_paced, ends_pace,
        extract(epoch FROM allowed.ends_at - allowed.at)::float8 AS seconds
""")  # noqa: S608 numbers of ours

# Zendesk's own minute ends with its pause, and ours with it. A minute that is used up already is only made longer.
_PAUSE = text(f"""
    WITH locked AS MATERIALIZED (
        SELECT * FROM api_budgets WHERE account = :account FOR UPDATE
    ), clocked AS MATERIALIZED (
        SELECT *, clock_timestamp() AS at, {BUDGET} AS budget FROM locked
    ), paused AS (
        SELECT
            account, at + CAST(:wait AS interval) AS ends_at, budget,
            CASE WHEN {IS_OPEN} AND used >= budget THEN window_ends_at END AS used_up_until,
            CASE WHEN {IS_OPEN} THEN used ELSE 0 END AS used
        FROM clocked
    )
    UPDATE api_budgets AS budgets
    SET window_ends_at = greatest(paused.ends_at, used_up_until), used = greatest(paused.used, paused.budget)
    FROM paused
    WHERE budgets.account = paused.account
    RETURNING budgets.account
""")  # noqa: S608 numbers of ours

_NOTE_NO_ORIGINALS = text("""
    UPDATE api_budgets SET no_originals_at = clock_timestamp()
    WHERE account = :account AND (:of_account OR NOT EXISTS (SELECT FROM messages WHERE original_sha256 IS NOT NULL))
    RETURNING account
""")

log = structlog.get_logger()


class Budget(Protocol):
    """The calls that may be made; `service.zendesk.client` asks it before each one."""

    @property
    def refuses_originals(self) -> bool:
        """Whether the account refused the original of an e-mail in the last 24 hours, as far as this process knows."""
        ...

    async def take(self, reserve: float = 0.0, *, waits: bool = True) -> None:
        """Take one call of this minute's budget, but leave the share `reserve` of it (0 to 1) to other callers.

        Without `waits`, the call is only counted, and is made at once also where it has no place.

        Raises Transient("rate_limited"), which uses up no retry, with the time until there may be a call; and the
        errors of a batch where Postgres is away.
        """
        ...

    async def note_limit(self, calls_per_minute: int) -> None:
        """Note the account's rate limit, as its latest answer tells it. Raises nothing."""
        ...

    async def note_calls_left(self, left: CallsLeft, sent_at: float) -> None:
        """Note how many calls Zendesk allows in the rest of its minute. Raises nothing.

        `sent_at` is the time of the call by the monotonic clock: its answer may be late.
        """
        ...

    async def pause(self, seconds: float) -> None:
        """Use up the budget of all workers for this time. Raises nothing."""
        ...

    async def note_no_originals(self, *, of_account: bool) -> None:
        """Note that the account refused the original of an e-mail. Raises nothing.

        Without `of_account`, the reason may be that one e-mail: it counts for all only where none was ever given.
        """
        ...


class Taking(NamedTuple):
    """A caller that wants to make one call."""

    account: str
    percent: int
    reserve: float


class Taken(NamedTuple):
    """The answer: the seconds to wait, and whether the call may be made then; and the known facts of the account."""

    seconds: float
    may_call: bool
    budget: int  # calls per minute
    calls_per_minute: int | None
    refuses_originals: bool
    is_paced: bool


class Limit(NamedTuple):
    """The rate limit of an account."""

    account: str
    calls_per_minute: int


class Pause(NamedTuple):
    """A pause of all calls to an account, in seconds."""

    account: str
    percent: int
    seconds: float


class Refusal(NamedTuple):
    """The refusal of an original; `of_account` where its reason concerns all e-mails."""

    account: str
    of_account: bool


class SharedBudget:
    """The budget of one account, in a row of `api_budgets`: all workers share it, and one statement serves many callers.

    A window of one minute begins with its first call, and ends by the database's clock.
    """

    def __init__(self, batch: Batcher, url: URL | None, percent: int, part: str = "") -> None:
        """Share the budget of an account, or that of a part of its API with a rate limit of its own."""
        self._batch = batch
        self._account = f"{key_of(url)} {part}".rstrip() if url else ""
        self._percent = percent
        self._limit: int | None = None  # as the row has it
        self._refuses_originals = False
        self._is_paced = False

    @property
    def refuses_originals(self) -> bool:
        return self._refuses_originals

    async def take(self, reserve: float = 0.0, *, waits: bool = True) -> None:
        taken = await self._batch(take_calls, Taking(self._account, self._percent, reserve))
        self._limit, self._refuses_originals = taken.calls_per_minute, taken.refuses_originals
        self._is_paced = taken.is_paced
        if taken.is_paced:
            ZENDESK_CALLS_SLOWED.inc()
        if not waits:
            return
        if not taken.may_call:
            raise rate_limited(taken.seconds, _reason(taken))
        await asyncio.sleep(taken.seconds)

    async def note_limit(self, calls_per_minute: int) -> None:
        limit = min(calls_per_minute, MOST_LIMIT)
        if limit > 0 and limit != self._limit:
            with _unless_away("limit"):
                await self._batch(note_limits, Limit(self._account, limit))
                self._limit = limit

    async def note_calls_left(self, left: CallsLeft, sent_at: float) -> None:
        # While calls are slowed, many left calls are news, too: the next minute has begun.
        if self._is_paced or left.remaining * NEARLY_FEW < left.limit:
            with _unless_away("calls_left"):
                await self._batch(note_calls_left, LeftOfAccount(self._account, left, sent_at))

    async def pause(self, seconds: float) -> None:
        with _unless_away("pause"):
            await self._batch(pause_calls, Pause(self._account, self._percent, pause_seconds(seconds)))

    async def note_no_originals(self, *, of_account: bool) -> None:
        with _unless_away("no_originals"):
            self._refuses_originals = await self._batch(note_no_originals, Refusal(self._account, of_account))


def pause_seconds(seconds: float) -> float:
    """Bound a pause that Zendesk asked for."""
    return min(max(seconds, 1), MOST_PAUSE_SECONDS)


def rate_limited(seconds: float, reason: str = _REFUSED) -> Transient:
    """Return the error of a call that has to wait; it uses up no retry."""
    return Transient("rate_limited", reason, timedelta(seconds=seconds), counts=False)


async def take_calls(conn: AsyncConnection, takings: Sequence[Taking]) -> Sequence[Taken]:
    """Take one call for each caller, or tell how long it has to wait; the first callers get the calls that are left."""
    taken = {}
    for taking, asked in Counter(takings).items():
        parameters = {**taking._asdict(), "asked": asked, "no_originals": NO_ORIGINALS}
        row = await _of_account(conn, _TAKE, parameters)
        if row.ends_pace:
            log.info("zendesk_calls_not_slowed")
        about = (row.budget, row.calls_per_minute, row.refuses_originals, row.is_paced)
        if row.is_paced:
            waits = await take_places(
                conn, taking.account, taking.percent, asked, has_reserve=taking.reserve > 0
            )
        else:
            waits = [_wait(row, before) for before in range(asked)]
        taken[taking] = iter([Taken(*wait, *about) for wait in waits])
    return [next(taken[taking]) for taking in takings]


async def note_limits(conn: AsyncConnection, limits: Sequence[Limit]) -> Sequence[None]:
    """Save the latest limit of each account."""
    for account, limit in sorted(dict(limits).items()):
        new = insert(ApiBudget).values(account=account, calls_per_minute=limit)
        changed = ApiBudget.calls_per_minute.is_distinct_from(limit)
        set_limit = {"calls_per_minute": limit}
        await conn.execute(
            new.on_conflict_do_update(index_elements=["account"], set_=set_limit, where=changed)
        )
    return [None] * len(limits)


async def pause_calls(conn: AsyncConnection, pauses: Sequence[Pause]) -> Sequence[None]:
    """Use up the budget of each account for the longest of these pauses."""
    for pause in {pause[:2]: pause for pause in sorted(pauses)}.values():
        parameters = {
            "account": pause.account,
            "percent": pause.percent,
            "wait": timedelta(seconds=pause.seconds),
        }
        await _of_account(conn, _PAUSE, parameters)
    return [None] * len(pauses)


async def note_no_originals(conn: AsyncConnection, refusals: Sequence[Refusal]) -> Sequence[bool]:
    """Save that accounts refused originals; return for each whether it is not asked for others now."""
    noted = {}
    for refusal in sorted(set(refusals)):
        noted[refusal] = (await conn.execute(_NOTE_NO_ORIGINALS, refusal._asdict())).one_or_none() is not None
    return [noted[refusal] for refusal in refusals]


async def _of_account(conn: AsyncConnection, statement: Any, parameters: dict[str, Any]) -> Row[Any]:  # noqa: ANN401
    """Run a statement that changes the row of an account and returns something; make the row where it is missing."""
    row = (await conn.execute(statement, parameters)).one_or_none()
    if row is None:
        new = insert(ApiBudget).values(account=parameters["account"]).on_conflict_do_nothing()
        await conn.execute(new)
        row = (await conn.execute(statement, parameters)).one()
    return row


def _wait(row: Row[Any], before: int) -> Wait:
    """Answer a caller who has so many callers before it in the statement."""
    over = row.used + before - row.calls
    if over < 0:
        return Wait(0, may_call=True)
    # Each minute serves as many of those that wait as the budget has calls.
    wait = row.seconds + WINDOW_SECONDS * (over // row.budget)
    return Wait(min(wait, MOST_PAUSE_SECONDS), may_call=False)


def _reason(taken: Taken) -> str:
    if taken.is_paced:
        return "Few calls are left of Zendesk's minute, for all programs together"
    if taken.calls_per_minute is None:
        return _REFUSED
    used_up = f"The {taken.budget} calls a minute that ZENDESK_CALLS_PERCENT allows are used up"
    return f"{used_up}, or Zendesk asked for a pause"


@contextmanager
def _unless_away(what: str) -> Iterator[None]:
    """Go on without a note where Postgres is away: the next answer brings it again."""
    try:
        yield
    except HoldfastError as exc:
        log.warning("api_budget_not_noted", what=what, code=exc.code)
