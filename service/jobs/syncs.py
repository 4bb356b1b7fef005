"""Syncs that are due and carried: taken for the length of a lease, and ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import sync_statements
from service.postgres.rows import arrays_of

_STATES = {"synced": "synced", "failed": "failed", "released": "pending", "handed_back": "pending"}


@dataclass(frozen=True, slots=True)
class Wish:
    """A worker's wish to carry an e-mail, and how long it may take."""

    email_id: int
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Carrying:
    """A sync that we hold until its lease ends.

    `unsettled` is how many attempts before this one nobody ended, in a row: their workers died, or were cut off. `age`
    is in seconds, since `begun_at`, when its job ended or somebody wanted it again; `invocation` is what logs and traces
    call it.
    """

    email_id: int
    version: int
    attempt_number: int
    retry_count: int
    unsettled: int = 0
    age: float = field(default=0, compare=False)
    invocation: str = field(default="", compare=False)
    begun_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ends: carried over, given up, or given back, due after `delay`.

    To release it costs a retry; to hand it back, because the worker shuts down, does not.
    """

    held: Carrying
    outcome: Literal["synced", "failed", "released", "handed_back"]
    error_code: str | None = None
    error: str | None = None
    delay: timedelta = timedelta(0)


async def claim(conn: AsyncConnection, wishes: Sequence[Wish]) -> list[Carrying | None]:
    """Take syncs that are due; None where nothing is to be carried, or somebody was first."""
    rows = await conn.execute(
        sync_statements.CLAIM,
        arrays_of(sync_statements.WISH, [(wish.email_id, wish.lease) for wish in wishes]),
    )
    claimed = {place: Carrying(*row) for place, *row in rows}
    return [claimed.get(place) for place in range(1, len(wishes) + 1)]


async def take_due(
    conn: AsyncConnection, limit: int, lease: timedelta, room_beside: Callable[[int], int]
) -> list[Carrying]:
    """Take what has been due for longest; two who take at once get different ones.

    Suspects, which nobody ended the last time, are taken only as far as `room_beside` says that there is room for
    those that nobody ended so often in a row.
    """
    unsettled = await conn.scalar(sync_statements.NEXT_UNSETTLED, {"most": limit}) or 0
    room = room_beside(unsettled) if unsettled else 0
    wanted = {"most": limit, "lease": lease, "unsettled": unsettled, "room": room}
    return [Carrying(*row) for row in await conn.execute(sync_statements.TAKE, wanted)]


async def settle(conn: AsyncConnection, settlements: Sequence[Settlement]) -> list[bool]:
    """End attempts; False where somebody else holds it by now, or the e-mail has another version."""
    rows = [
        (*_held_as(s.held), s.outcome, _STATES[s.outcome], s.error_code, s.error, s.delay)
        for s in settlements
    ]
    done = set(await conn.scalars(sync_statements.SETTLE, arrays_of(sync_statements.SETTLEMENT, rows)))
    return [place in done for place in range(1, len(settlements) + 1)]


def _held_as(held: Carrying) -> tuple[int, int, int, int]:
    return held.email_id, held.version, held.attempt_number, held.retry_count
