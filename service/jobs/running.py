"""Attempts: a job is claimed, held by a lease, and left for another state."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import (
    CTE,
    BigInteger,
    Column,
    Select,
    case,
    func,
    insert,
    literal,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.waiting import Job
from service.models import PROCESSING, Attempt, IncomingEmail


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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not complete, as a stable code and in words."""

    code: str
    message: str


async def claim(conn: AsyncConnection, job: Job, worker: str, lease: timedelta) -> Claim | None:
    """Begin the job's next attempt and record it; None if another message or worker was first."""
    claimed = (
        update(IncomingEmail)
        .where(
            IncomingEmail.id == job.email_id,
            IncomingEmail.processing_status.in_(("received", "queued")),
            IncomingEmail.attempt_number == job.attempt_number - 1,
        )
        .values(
            processing_status="processing",
            attempt_number=IncomingEmail.attempt_number + 1,
            started_at=func.now(),
            lease_until=func.now() + lease,
        )
        .returning(
            IncomingEmail.id,
            IncomingEmail.attempt_number,
            IncomingEmail.retry_count,
            IncomingEmail.zendesk_ticket_id,
            case((IncomingEmail.attachment_urls.is_(None), IncomingEmail.comment_id)).label("comment_id"),
        )
        .cte("claimed")
    )
    begun = (
        insert(Attempt)
        .from_select(
            ["email_id", "number", "worker"], select(claimed.c.id, claimed.c.attempt_number, literal(worker))
        )
        .returning(Attempt.number)
        .cte("begun")
    )
    row = (await conn.execute(select(claimed).add_cte(begun))).one_or_none()
    return Claim(*row) if row else None


async def renew(
    conn: AsyncConnection, held: Collection[tuple[int, int]], lease: timedelta
) -> set[tuple[int, int]]:
    """Lengthen the leases of a worker's claims (ids and attempt numbers); return those it still holds."""
    ids, numbers = zip(*held, strict=True)
    mine = (
        func.unnest(literal(ids, ARRAY(BigInteger)), literal(numbers, ARRAY(BigInteger)))
        .table_valued(Column("email_id", BigInteger), Column("attempt_number", BigInteger), name="mine")
        .render_derived()
    )
    rows = await conn.execute(
        update(IncomingEmail)
        .where(
            IncomingEmail.id == mine.c.email_id,
            IncomingEmail.attempt_number == mine.c.attempt_number,
            text(PROCESSING),
        )
        .values(lease_until=func.now() + lease)
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
    )
    return {(email_id, number) for email_id, number in rows}


async def complete(conn: AsyncConnection, claim: Claim) -> bool:
    """End the job well; False if the claim was lost."""
    return await _settle(
        conn, claim, "completed", None, processing_status="completed", completed_at=func.now()
    )


async def release(conn: AsyncConnection, claim: Claim, failure: Failure, delay: timedelta) -> bool:
    """Give the job back for another attempt after `delay`, at the cost of one retry."""
    return await _settle(
        conn,
        claim,
        "released",
        failure,
        processing_status="queued",
        retry_count=IncomingEmail.retry_count + 1,
        due_at=func.now() + delay,
    )


async def hand_back(conn: AsyncConnection, claim: Claim) -> bool:
    """Give the job back at once and at no cost: the worker shuts down."""
    return await _settle(conn, claim, "handed_back", None, processing_status="queued", due_at=func.now())


async def fail(conn: AsyncConnection, claim: Claim, failure: Failure) -> bool:
    """End the job with a reason."""
    return await _settle(conn, claim, "failed", failure, processing_status="failed", completed_at=func.now())


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
            retry_count=case((another, IncomingEmail.retry_count + 1), else_=IncomingEmail.retry_count),
            completed_at=case((another, null()), else_=func.now()),
            due_at=func.now() + suspicion * func.random() * literal(spread),
            lease_until=None,
            error_code=failure.code,
            processing_error=failure.message,
        )
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
        .cte("left")
    )
    return len((await conn.execute(_end_attempts(left, "abandoned", failure))).all())


async def _settle(
    conn: AsyncConnection, claim: Claim, outcome: str, failure: Failure | None, **changes: object
) -> bool:
    left = (
        update(IncomingEmail)
        .where(
            IncomingEmail.id == claim.email_id,
            IncomingEmail.processing_status == "processing",
            IncomingEmail.attempt_number == claim.attempt_number,
        )
        .values(
            lease_until=None,
            error_code=failure and failure.code,
            processing_error=failure and failure.message,
            **changes,
        )
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
        .cte("left")
    )
    return (await conn.execute(_end_attempts(left, outcome, failure))).one_or_none() is not None


def _end_attempts(left: CTE, outcome: str, failure: Failure | None) -> Select[tuple[int]]:
    """Note how the attempts ended whose jobs were left; gives the ids of those jobs."""
    ended = (
        update(Attempt)
        .where(Attempt.email_id == left.c.id, Attempt.number == left.c.attempt_number)
        .values(
            outcome=outcome,
            finished_at=func.now(),
            error_code=failure and failure.code,
            error=failure and failure.message,
        )
        .returning(Attempt.email_id)
        .cte("ended")
    )
    return select(left.c.id).add_cte(ended)
