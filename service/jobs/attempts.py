"""Attempts: jobs are claimed, their leases renewed, and their attempts settled; any number in one statement."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import attempt_statements
from service.jobs.attachments import FencingToken
from service.jobs.attempt_statements import (
    ATTEMPT,
    CLAIM,
    REFUSAL,
    REFUSE,
    RENEW,
    REQUEST,
    SETTLE,
    SETTLED,
    SETTLEMENT,
)
from service.jobs.waiting import Job
from service.postgres.rows import arrays_of
from service.telemetry.metrics import TRANSITIONS

SyncStatus = Literal["pending", "not_applicable"]

# The state of the job after each outcome of an attempt.
_STATES = {"completed": "completed", "failed": "failed", "released": "queued", "handed_back": "queued"}

# Abandoned attempts in a row after which a job fails; jobs beside one that ends workers reach about half of it.
MOST_ABANDONED = 5

_CLAIMED = TRANSITIONS.labels("processing", "claim")
_LEFT = {
    outcome: TRANSITIONS.labels(_STATES[outcome], by)
    for outcome, by in (
        ("completed", "complete"),
        ("failed", "fail"),
        ("released", "release"),
        ("handed_back", "hand_back"),
    )
}
_REFUSED = TRANSITIONS.labels("failed", "refuse")
_TAKEN_BACK = {status: TRANSITIONS.labels(status, "rescue") for status in ("queued", "failed")}


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A worker's request for a job."""

    job: Job
    worker: str
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this process has claimed for the length of a lease; `attempt_number` is the fencing token.

    With `reread`, the attempt reparses the body first. `comment_id` is the e-mail's comment, "" where the files have to
    be looked up without one. `announced_bytes` is the size of the webhook's list of attachments, and `is_listed` is False
    where it had none. `looked_up`: Zendesk's API told the message and its files before. `age` is in seconds
    since the receipt of the webhook, `waited` in seconds since the job was due. `invocation` is the name in logs and
    traces. `has_body` is False where another system wrote the row. `known_as` is another e-mail that has this
    request already.
    """

    email_id: int
    attempt_number: int
    retry_count: int
    ticket_id: str
    comment_id: str | None
    is_listed: bool = field(default=True, compare=False)
    looked_up: bool = field(default=False, compare=False)
    announced_bytes: int = field(default=0, compare=False)
    age: float = field(default=0, compare=False)
    invocation: str = field(default="", compare=False)
    reread: bool = field(default=False, compare=False)
    waited: float = field(default=0, compare=False)
    has_body: bool = field(default=True, compare=False)
    account_id: str | None = field(default=None, compare=False)
    known_as: int | None = field(default=None, compare=False)

    @property
    def fencing_token(self) -> FencingToken:
        """Identify the claim by the id of the e-mail and the number of the attempt."""
        return self.email_id, self.attempt_number


class Failure(NamedTuple):
    """The reason why an attempt did not complete: a stable code, a message, and the host of the file."""

    code: str
    message: str
    host: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimRefusal:
    """A job whose claim Postgres refuses, the reason, and the new state of its sync."""

    job: Job
    failure: Failure
    sync_status: SyncStatus = "not_applicable"


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of an attempt: its job ends, or is queued again and due after `delay`.

    A release costs a retry. A hand-back does not: the worker shuts down, or the error says nothing about this e-mail. The
    end of a job starts its sync in the same statement, so that nothing can happen in between.
    """

    claim: Claim
    outcome: Literal["completed", "released", "handed_back", "failed"]
    failure: Failure | None = None
    delay: timedelta = timedelta(0)
    sync_status: SyncStatus = "not_applicable"


async def claim(conn: AsyncConnection, requests: Sequence[ClaimRequest]) -> list[Claim | None]:
    """Claim jobs and record their attempts; None where another message or worker was first."""
    rows = [(each.job.email_id, each.job.attempt_number, each.worker, each.lease) for each in requests]
    begun = await CLAIM.fetch(conn, arrays_of(REQUEST, rows))
    claims = {place: Claim(*row) for place, _, *row in begun}
    _CLAIMED.inc(len(claims))
    return [claims.get(place) for place in range(1, len(requests) + 1)]


async def refuse(conn: AsyncConnection, refusals: Sequence[ClaimRefusal]) -> list[bool]:
    """Fail waiting jobs that cannot be claimed; False where another message or worker was first."""
    rows = [
        (each.job.email_id, each.job.attempt_number, *each.failure, each.sync_status) for each in refusals
    ]
    places = set(await conn.scalars(REFUSE, arrays_of(REFUSAL, rows)))
    _REFUSED.inc(len(places))
    return [place in places for place in range(1, len(refusals) + 1)]


async def renew(
    conn: AsyncConnection, held: Collection[tuple[int, int]], lease: timedelta
) -> set[tuple[int, int]]:
    """Renew the leases of claims, given as fencing tokens; return those that are still valid."""
    rows = await conn.execute(RENEW, {**arrays_of(ATTEMPT, list(held)), "lease": lease})
    return {(email_id, number) for email_id, number in rows}


async def settle(conn: AsyncConnection, settlements: Sequence[Settlement]) -> list[bool]:
    """Settle attempts; False where the claim is lost, True where the attempt was settled in this way before."""
    rows = [
        (
            *s.claim.fencing_token,
            s.outcome,
            _STATES[s.outcome],
            *(s.failure or (None, None, None)),
            s.delay,
            s.sync_status,
        )
        for s in settlements
    ]
    asked = arrays_of(SETTLEMENT, rows)
    done = {place for place, *_ in await SETTLE.fetch(conn, asked)}
    if len(done) < len(settlements):  # this may repeat a commit whose confirmation was lost
        done |= set(await conn.scalars(SETTLED, asked))
    settled = [place in done for place in range(1, len(settlements) + 1)]
    for settlement, is_settled in zip(settlements, settled, strict=True):
        if is_settled:
            _LEFT[settlement.outcome].inc()
    return settled


async def take_back(
    conn: AsyncConnection,
    limit: int,
    spread: timedelta = timedelta(0),
    sync_status: str = "not_applicable",
    most_abandoned: int = MOST_ABANDONED,
) -> int:
    """Take back abandoned jobs, whose lease expired; fail those abandoned too often in a row. Return their number.

    An abandoned attempt costs no retry: another job may have ended the worker. A job is due at once the first time, and
    later after a random part of `spread` times the number of times before.
    """
    return await _take_back(conn, attempt_statements.take_back(most_abandoned, limit, spread, sync_status))


async def take_back_one(conn: AsyncConnection, email_id: int, spread: timedelta, sync_status: str) -> int:
    """Take back this job alone, as `take_back` does with many."""
    return await _take_back(
        conn, attempt_statements.take_back(MOST_ABANDONED, 1, spread, sync_status, email_id)
    )


async def expired(conn: AsyncConnection, limit: int) -> Sequence[int]:
    """Return the ids of jobs with an expired lease."""
    return (await conn.scalars(attempt_statements.expired(limit))).all()


async def _take_back(conn: AsyncConnection, statement: Select[Any]) -> int:
    taken_back = [row.processing_status for row in await conn.execute(statement)]
    for status in taken_back:
        _TAKEN_BACK[status].inc()
    return len(taken_back)
