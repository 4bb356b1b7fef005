"""Attempts: jobs are claimed, held by a lease, and left for another state; any number in one statement."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Interval,
    Select,
    TableValuedAlias,
    Text,
    case,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.jobs.waiting import Job
from service.models import PROCESSING, Attempt, IncomingEmail, rows_of

_ATTEMPT: dict[str, TypeEngine[Any]] = {"email_id": BigInteger(), "attempt_number": BigInteger()}
_LEFT = IncomingEmail.__table__.c["id", "attempt_number", "error_code", "processing_error"]


@dataclass(frozen=True, slots=True)
class Claiming:
    """A worker's wish for a job."""

    job: Job
    worker: str
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that we hold for the length of a lease; `attempt_number` is the fence.

    `comment_id` is set where the webhook named a comment instead of listing attachments.
    """

    email_id: int
    attempt_number: int
    retry_count: int
    ticket_id: str
    comment_id: str | None

    @property
    def held(self) -> tuple[int, int]:
        """What the fence compares: the e-mail's id and the attempt's number."""
        return self.email_id, self.attempt_number


class Failure(NamedTuple):
    """Why an attempt did not complete, as a stable code and in words."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ends: its job is over, or is given back, due after `delay`.

    To release it costs a retry; to hand it back, because the worker shuts down, does not.
    """

    claim: Claim
    outcome: Literal["completed", "released", "handed_back", "failed"]
    failure: Failure | None = None
    delay: timedelta = timedelta(0)


async def claim(conn: AsyncConnection, wishes: Sequence[Claiming]) -> list[Claim | None]:
    """Begin the next attempts of jobs and record them; None where another message or worker was first."""
    rows = [(each.job.email_id, each.job.attempt_number, each.worker, each.lease) for each in wishes]
    wish = rows_of("wish", {**_ATTEMPT, "worker": Text(), "lease": Interval()}, rows)
    waits = IncomingEmail.processing_status.in_(("received", "queued"))
    free = _locked("free", wish, waits, IncomingEmail.attempt_number == wish.c.attempt_number - 1)
    claimed = (
        update(IncomingEmail)
        .where(IncomingEmail.id == free.c.email_id)
        .values(
            processing_status="processing",
            attempt_number=free.c.attempt_number,
            started_at=func.now(),
            lease_until=func.now() + free.c.lease,
        )
        .returning(
            free.c.place,
            free.c.worker,
            *IncomingEmail.__table__.c["id", "attempt_number", "retry_count", "zendesk_ticket_id"],
            case((IncomingEmail.attachment_urls.is_(None), IncomingEmail.comment_id)).label("comment_id"),
        )
        .cte("claimed")
    )
    begun = (
        insert(Attempt)
        .from_select(
            ["email_id", "number", "worker"], select(claimed.c.id, claimed.c.attempt_number, claimed.c.worker)
        )
        .returning(Attempt.number)
        .cte("begun")
    )
    claims = {place: Claim(*row) for place, _, *row in await conn.execute(select(claimed).add_cte(begun))}
    return [claims.get(place) for place in range(1, len(wishes) + 1)]


async def renew(
    conn: AsyncConnection, held: Collection[tuple[int, int]], lease: timedelta
) -> set[tuple[int, int]]:
    """Lengthen the leases of a worker's claims (ids and attempt numbers); return those it still holds."""
    mine = _held(rows_of("attempt", _ATTEMPT, list(held)))
    rows = await conn.execute(
        update(IncomingEmail)
        .where(IncomingEmail.id == mine.c.email_id)
        .values(lease_until=func.now() + lease)
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
    )
    return {(email_id, number) for email_id, number in rows}


async def settle(conn: AsyncConnection, settlements: Sequence[Settlement]) -> list[bool]:
    """End attempts; False where the claim was lost, but not where the attempt has ended in this way already."""
    kinds = dict.fromkeys(("outcome", "error_code", "error"), Text())
    rows = [(*s.claim.held, s.outcome, *(s.failure or (None, None)), s.delay) for s in settlements]
    asked = rows_of("settlement", {**_ATTEMPT, **kinds, "delay": Interval()}, rows)
    mine = _held(asked)
    is_over = mine.c.outcome.in_(("completed", "failed"))
    left = (
        update(IncomingEmail)
        .where(IncomingEmail.id == mine.c.email_id)
        .values(
            processing_status=case((is_over, mine.c.outcome), else_="queued"),
            retry_count=IncomingEmail.retry_count + case((mine.c.outcome == "released", 1), else_=0),
            completed_at=case((is_over, func.now())),
            due_at=case((is_over, IncomingEmail.due_at), else_=func.now() + mine.c.delay),
            lease_until=None,
            error_code=mine.c.error_code,
            processing_error=mine.c.error,
        )
        .returning(mine.c.place, mine.c.outcome, *_LEFT)
        .cte("left")
    )
    done = {row.place for row in await conn.execute(_end_attempts(left))}
    if len(done) < len(settlements):  # of a commit whose answer was lost, the repetition comes here
        attempt = tuple_(Attempt.email_id, Attempt.number, Attempt.outcome)
        wanted = tuple_(*asked.c["email_id", "attempt_number", "outcome"])
        done |= set(await conn.scalars(select(asked.c.place).join_from(asked, Attempt, attempt == wanted)))
    return [place in done for place in range(1, len(settlements) + 1)]


async def rescue(
    conn: AsyncConnection, max_retries: int, limit: int, spread: timedelta = timedelta(0)
) -> int:
    """Take back jobs whose lease ran out; those with no retry left fail. Returns how many there were.

    A job is due at once; but if its attempt before was abandoned, too, some time within `spread` for each retry
    that it has used: one that kills every worker would otherwise meet the same neighbours each time, and cost
    them theirs.
    """
    expired = (
        select(IncomingEmail.id)
        # Without a lease: claimed by a worker of the time before there were leases.
        .where(text(PROCESSING), func.coalesce(IncomingEmail.lease_until, func.now()) <= func.now())
        .order_by(IncomingEmail.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("expired")
    )
    failure = Failure("abandoned", "The worker died or lost its connections in the middle of an attempt.")
    another = IncomingEmail.retry_count < max_retries
    suspicion = case((IncomingEmail.error_code == failure.code, IncomingEmail.retry_count), else_=0)
    left = (
        update(IncomingEmail)
        .where(IncomingEmail.id == expired.c.id)
        .values(
            processing_status=case((another, "queued"), else_="failed"),
            retry_count=IncomingEmail.retry_count + case((another, 1), else_=0),
            completed_at=case((~another, func.now())),
            due_at=func.now() + suspicion * func.random() * literal(spread),
            lease_until=None,
            error_code=failure.code,
            processing_error=failure.message,
        )
        .returning(literal("abandoned").label("outcome"), *_LEFT)
        .cte("left")
    )
    return len((await conn.execute(_end_attempts(left))).all())


def _held(attempts: TableValuedAlias) -> CTE:
    is_running = IncomingEmail.processing_status == "processing"
    return _locked("held", attempts, is_running, IncomingEmail.attempt_number == attempts.c.attempt_number)


def _locked(name: str, attempts: TableValuedAlias, *guard: ColumnElement[bool]) -> CTE:
    """Lock the jobs that pass the guard, in order: so two batches do not wait for each other in a circle."""
    return (
        select(*attempts.c)
        .join_from(attempts, IncomingEmail, IncomingEmail.id == attempts.c.email_id)
        .where(*guard)
        .order_by(attempts.c.email_id)
        .with_for_update(key_share=True, of=IncomingEmail)
        .cte(name)
    )


def _end_attempts(left: CTE) -> Select[tuple[int]]:
    """Note how the attempts ended whose jobs were left; gives what was left."""
    ended = (
        update(Attempt)
        .where(Attempt.email_id == left.c.id, Attempt.number == left.c.attempt_number)
        .values(
            outcome=left.c.outcome,
            finished_at=func.now(),
            error_code=left.c.error_code,
            error=left.c.processing_error,
        )
        .returning(Attempt.email_id)
        .cte("ended")
    )
    return select(left).add_cte(ended)
