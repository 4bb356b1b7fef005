"""Syncs: due ones are claimed for the length of a lease, settled, and dropped where no target is left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import exists, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import sync_statements
from service.postgres.email_tables import TO_SYNC, IncomingEmail
from service.postgres.rows import arrays_of

_STATES = {"synced": "synced", "failed": "failed", "released": "pending", "handed_back": "pending"}

# Pending syncs that `drop_overdue` examines for a sign of a target.
EXAMINED = 100


@dataclass(frozen=True, slots=True)
class SyncClaimRequest:
    """A worker's request for a sync."""

    email_id: int
    lease: timedelta


@dataclass(frozen=True, slots=True)
class SyncClaim:
    """A sync that this process has claimed until its lease ends.

    `unsettled` is the number of attempts in a row, before this one, that ended without a settlement because the worker
    died or lost Postgres. `age` is in seconds since `begun_at`, the end of the job or the last retry of the sync.
    `invocation` is the name in logs and traces.
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
class SyncSettlement:
    """The end of an attempt at a sync: synced, failed, or pending again and due after `delay`.

    A release costs a retry; a hand-back, at the shutdown of a worker, does not.
    """

    claim: SyncClaim
    outcome: Literal["synced", "failed", "released", "handed_back"]
    error_code: str | None = None
    error: str | None = None
    delay: timedelta = timedelta(0)


async def claim(conn: AsyncConnection, requests: Sequence[SyncClaimRequest]) -> list[SyncClaim | None]:
    """Claim due syncs; None where nothing is to be synced, or another worker was first."""
    rows = await conn.execute(
        sync_statements.CLAIM,
        arrays_of(sync_statements.REQUEST, [(request.email_id, request.lease) for request in requests]),
    )
    claimed = {place: SyncClaim(*row) for place, *row in rows}
    return [claimed.get(place) for place in range(1, len(requests) + 1)]


async def claim_due(
    conn: AsyncConnection, limit: int, lease: timedelta, room_for: Callable[[int], int]
) -> list[SyncClaim]:
    """Claim the syncs that have been due for longest; concurrent calls claim different ones.

    Suspects, whose last attempt was not settled, are claimed only as far as `room_for` their number of unsettled
    attempts allows.
    """
    unsettled = await conn.scalar(sync_statements.NEXT_UNSETTLED, {"most": limit}) or 0
    room = room_for(unsettled) if unsettled else 0
    wanted = {"most": limit, "lease": lease, "unsettled": unsettled, "room": room}
    return [SyncClaim(*row) for row in await conn.execute(sync_statements.CLAIM_DUE, wanted)]


async def settle(conn: AsyncConnection, settlements: Sequence[SyncSettlement]) -> list[bool]:
    """Settle attempts; False where the claim is lost, or the e-mail has another version."""
    rows = [
        (*_row_of(s.claim), s.outcome, _STATES[s.outcome], s.error_code, s.error, s.delay)
        for s in settlements
    ]
    done = set(await conn.scalars(sync_statements.SETTLE, arrays_of(sync_statements.SETTLEMENT, rows)))
    return [place in done for place in range(1, len(settlements) + 1)]


async def drop_overdue(conn: AsyncConnection, limit: int, after: timedelta) -> int:
    """Drop syncs that have been due for this long, because there is no target any more; return their number.

    Drops nothing while another process still attempts syncs: its target may only be down.
    """
    # A sync with attempts is due last: after its backoff, or at the end of its lease.
    last = (
        select(IncomingEmail.sync_unsettled, IncomingEmail.sync_retry_count)
        .where(text(TO_SYNC), IncomingEmail.sync_due_at > func.now() - after)
        .order_by(IncomingEmail.sync_due_at.desc())
        .limit(EXAMINED)
        .cte("last")
    )
    is_attempted = exists(last.select().where(or_(last.c.sync_unsettled > 0, last.c.sync_retry_count > 0)))
    due = (
        select(IncomingEmail.id)
        .where(text(TO_SYNC), IncomingEmail.sync_due_at <= func.now() - after, ~is_attempted)
        .order_by(IncomingEmail.sync_due_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("due")
    )
    dropped = update(IncomingEmail).where(IncomingEmail.id == due.c.id).values(sync_status="not_applicable")
    return (await conn.execute(dropped)).rowcount


def _row_of(claim: SyncClaim) -> tuple[int, int, int, int]:
    return claim.email_id, claim.version, claim.attempt_number, claim.retry_count
