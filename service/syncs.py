"""The state machine of an e-mail's sync; the only writer of its columns once the job has ended, which begins it.

`pending` until it is `synced`, or `failed` with a reason. Who carries it holds it until `sync_due_at`, and then
somebody else does. The fence is twofold: `sync_attempt_number` refuses who was too slow, and the version, which is
the job's `attempt_number`, refuses who carried a state that is not the newest any more. All times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Double,
    Interval,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service import retries
from service.models import FINISHED, TO_SYNC, IncomingEmail
from service.operations import OperatorAction
from service.retries import Step
from service.rows import arrays_of, rows_of

_WISH: dict[str, TypeEngine[Any]] = {"email_id": BigInteger(), "lease": Interval()}
_SETTLEMENT: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("email_id", "version", "attempt_number", "retry_count"), BigInteger()),
    **dict.fromkeys(("outcome", "status", "error_code", "error"), Text()),
    "delay": Interval(),
}
_email = IncomingEmail.__table__.c
_STATES = {"synced": "synced", "failed": "failed", "released": "pending", "handed_back": "pending"}


@dataclass(frozen=True, slots=True)
class Sync:
    """What is rung: an e-mail, and the version of it that is to be carried."""

    email_id: int
    version: int


@dataclass(frozen=True, slots=True)
class Wish:
    """A worker's wish to carry an e-mail, and how long it may take."""

    email_id: int
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Carrying:
    """A sync that we hold until its lease ends; `age` is in seconds, since its job ended or somebody wanted it again."""

    email_id: int
    version: int
    attempt_number: int
    retry_count: int
    age: float = field(default=0, compare=False)


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
    rows = await conn.execute(_CLAIM, arrays_of(_WISH, [(wish.email_id, wish.lease) for wish in wishes]))
    claimed = {place: Carrying(*row) for place, *row in rows}
    return [claimed.get(place) for place in range(1, len(wishes) + 1)]


async def take_due(conn: AsyncConnection, limit: int, lease: timedelta) -> list[Carrying]:
    """Take what has been due for longest; two who take at once get different ones."""
    return [Carrying(*row) for row in await conn.execute(_TAKE, {"most": limit, "lease": lease})]


async def settle(conn: AsyncConnection, settlements: Sequence[Settlement]) -> list[bool]:
    """End attempts; False where somebody else holds it by now, or the e-mail has another version."""
    rows = [
        (*_held_as(s.held), s.outcome, _STATES[s.outcome], s.error_code, s.error, s.delay)
        for s in settlements
    ]
    done = set(await conn.scalars(_SETTLE, arrays_of(_SETTLEMENT, rows)))
    return [place in done for place in range(1, len(settlements) + 1)]


def _held_as(held: Carrying) -> tuple[int, int, int, int]:
    return held.email_id, held.version, held.attempt_number, held.retry_count


async def again(conn: AsyncConnection, email_id: int, actor: str) -> Sync | None:
    """Carry a finished e-mail once more, now and with a fresh budget, and note who wanted it; None if it is not finished."""
    begun = begin(IncomingEmail.id == email_id)
    noted = note(begun, actor)
    row = (await conn.execute(select(begun.c.id, begun.c.attempt_number).add_cte(noted))).one_or_none()
    return Sync(*row) if row else None


async def again_next(conn: AsyncConnection, step: Step, found: Select[Any], stop: Select[Any]) -> list[Sync]:
    """Begin the syncs anew of the next of many, and note in the same statement how far that is; as `retry_next` of jobs."""
    bulk = retries.held(step)
    free = (
        select(IncomingEmail.id)
        .where(exists(bulk.select()), IncomingEmail.id.in_(select(found.subquery().c.id)), text(FINISHED))
        .order_by(IncomingEmail.id)
        .with_for_update(key_share=True)
        .cte("free")
    )
    begun = begin(IncomingEmail.id == free.c.id)
    moved = retries.moved(bulk, begun, stop)
    noted = note(begun, step.actor, step.bulk_retry_id)
    rows = await conn.execute(select(begun.c.id, begun.c.attempt_number).add_cte(noted, moved))
    return [Sync(*row) for row in rows]


async def drop(conn: AsyncConnection, limit: int, after: timedelta) -> int:
    """Let go of what has been due for so long, because there is no target any more; return how many that were."""
    due = (
        select(IncomingEmail.id)
        .where(text(TO_SYNC), IncomingEmail.sync_due_at <= func.now() - after)
        .order_by(IncomingEmail.sync_due_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("due")
    )
    dropped = update(IncomingEmail).where(IncomingEmail.id == due.c.id).values(sync_status="not_applicable")
    return (await conn.execute(dropped)).rowcount


async def job_status(conn: AsyncConnection, email_id: int) -> str | None:
    """Tell the state of the job, which keeps its sync waiting; None if there is no such e-mail."""
    return await conn.scalar(select(_email.processing_status).where(_email.id == email_id))


def begin(*which: ColumnElement[bool]) -> CTE:
    """Make the part of a statement that begins the sync anew of finished e-mails that match."""
    return (
        update(IncomingEmail)
        .where(*which, text(FINISHED))
        .values(
            sync_status="pending",
            sync_due_at=func.now(),
            sync_begun_at=func.now(),
            sync_retry_count=0,
            sync_error=None,
            sync_error_code=None,
        )
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
        .cte("begun")
    )


def note(begun: CTE, actor: str, bulk_retry_id: int | None = None) -> CTE:
    """Make the part that notes who wanted it."""
    row = select(literal(actor), literal("sync"), begun.c.id, literal(bulk_retry_id, BigInteger))
    columns = ["actor", "action", "email_id", "bulk_retry_id"]
    return insert(OperatorAction).from_select(columns, row).returning(OperatorAction.id).cte("noted")


def _held(lease: ColumnElement[Any]) -> dict[str, Any]:
    return {"sync_due_at": func.now() + lease, "sync_attempt_number": IncomingEmail.sync_attempt_number + 1}


_HOLDING = (
    *_email["id", "attempt_number", "sync_attempt_number", "sync_retry_count"],
    cast(func.extract("epoch", func.now() - IncomingEmail.sync_begun_at), Double).label("age"),
)


def _claim() -> Select[Any]:
    wish = rows_of("wish", _WISH)
    free = (
        select(*wish.c)
        .join_from(wish, IncomingEmail, IncomingEmail.id == wish.c.email_id)
        .where(text(TO_SYNC), IncomingEmail.sync_due_at <= func.now())
        .order_by(wish.c.email_id)  # so that two batches do not wait for each other in a circle
        .with_for_update(key_share=True, of=IncomingEmail)
        .cte("free")
    )
    claimed = (
        update(IncomingEmail)
        .where(IncomingEmail.id == free.c.email_id)
        .values(**_held(free.c.lease))
        .returning(free.c.place, *_HOLDING)
        .cte("claimed")
    )
    return select(claimed)


def _take() -> Select[Any]:
    due = (
        select(IncomingEmail.id)
        .where(text(TO_SYNC), IncomingEmail.sync_due_at <= func.now())
        .order_by(IncomingEmail.sync_due_at)
        .limit(bindparam("most", type_=BigInteger()))
        .with_for_update(key_share=True, skip_locked=True)
        .cte("due")
    )
    taken = (
        update(IncomingEmail)
        .where(IncomingEmail.id == due.c.id)
        .values(**_held(bindparam("lease", type_=Interval())))
        .returning(*_HOLDING)
        .cte("taken")
    )
    return select(taken)


def _settle() -> Select[Any]:
    asked = rows_of("settlement", _SETTLEMENT)
    mine = (
        select(*asked.c)
        .join_from(
            asked,
            IncomingEmail,
            and_(
                IncomingEmail.id == asked.c.email_id,
                IncomingEmail.attempt_number == asked.c.version,
                IncomingEmail.sync_attempt_number == asked.c.attempt_number,
            ),
        )
        .where(text(TO_SYNC))
        .order_by(asked.c.email_id)
        .with_for_update(key_share=True, of=IncomingEmail)
        .cte("mine")
    )
    is_synced = mine.c.status == "synced"
    left = (
        update(IncomingEmail)
        .where(IncomingEmail.id == mine.c.email_id)
        .values(
            sync_status=mine.c.status,
            # Not one more than the row has: this may be repeated, and an attempt costs one retry.
            sync_retry_count=mine.c.retry_count + case((mine.c.outcome == "released", 1), else_=0),
            sync_due_at=func.now() + mine.c.delay,
            sync_error_code=case((is_synced, null()), else_=mine.c.error_code),
            sync_error=case((is_synced, null()), else_=mine.c.error),
            synced_at=case((is_synced, func.now()), else_=IncomingEmail.synced_at),
        )
        .returning(mine.c.place)
        .cte("left")
    )
    return select(left.c.place)


# Made once: to make a statement takes longer than to run it.
_CLAIM, _TAKE, _SETTLE = _claim(), _take(), _settle()
