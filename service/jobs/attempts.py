"""Attempts: jobs are claimed, held by a lease, and left for another state; any number in one statement."""

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

# The state in which the end of an attempt leaves the job.
_STATES = {"completed": "completed", "failed": "failed", "released": "queued", "handed_back": "queued"}

# So many attempts in a row may be abandoned before an e-mail fails; good neighbours of a bad one reach about half.
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
    """A worker's wish for a job."""

    job: Job
    worker: str
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that we hold for the length of a lease; `attempt_number` is the fence.

    With `reread` the attempt begins with reading the body again. `comment_id` is the comment that the webhook
    named, or "" where it named none and has to be looked up. The webhook's own list of attachments has
    `announced_bytes`; `is_listed` is False where it had none. `looked_up`: the files were looked up in Zendesk's
    API before. `age` is in seconds, from when the webhook was received; `invocation` is what logs call it.
    `waited` is in seconds, from when the job was due for this attempt. `has_body` is False where another system wrote
    the row.
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

    @property
    def fencing_token(self) -> FencingToken:
        """What the fence compares: the e-mail's id and the attempt's number."""
        return self.email_id, self.attempt_number


class Failure(NamedTuple):
    """Why an attempt did not complete, as a stable code and in words, and which host had the file."""

    code: str
    message: str
    host: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimRefusal:
    """Why Postgres refuses to let a job be claimed, and where its sync begins."""

    job: Job
    failure: Failure
    sync_status: SyncStatus = "not_applicable"


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ends: its job is over, or is given back, due after `delay`.

    To release it costs a retry. To hand it back does not: the worker shuts down, or what went wrong says nothing of
    this e-mail. Where the job is over,
    its sync begins, if there is to be one: in the same statement, so that nothing can come in between.
    """

    claim: Claim
    outcome: Literal["completed", "released", "handed_back", "failed"]
    failure: Failure | None = None
    delay: timedelta = timedelta(0)
    sync_status: SyncStatus = "not_applicable"


async def claim(conn: AsyncConnection, requests: Sequence[ClaimRequest]) -> list[Claim | None]:
    """Begin the next attempts of jobs and record them; None where another message or worker was first."""
    rows = [(each.job.email_id, each.job.attempt_number, each.worker, each.lease) for each in requests]
    begun = await conn.execute(CLAIM, arrays_of(REQUEST, rows))
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
    """Lengthen the leases of a worker's claims (ids and attempt numbers); return those it still holds."""
    rows = await conn.execute(RENEW, {**arrays_of(ATTEMPT, list(held)), "lease": lease})
    return {(email_id, number) for email_id, number in rows}


async def settle(conn: AsyncConnection, settlements: Sequence[Settlement]) -> list[bool]:
    """End attempts; False where the claim was lost, but not where the attempt has ended in this way already."""
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
    done = set(await conn.scalars(SETTLE, asked))
    if len(done) < len(settlements):  # of a commit whose answer was lost, the repetition comes here
        done |= set(await conn.scalars(SETTLED, asked))
    held = [place in done for place in range(1, len(settlements) + 1)]
    for settlement, was_held in zip(settlements, held, strict=True):
        if was_held:
            _LEFT[settlement.outcome].inc()
    return held


async def take_back(
    conn: AsyncConnection,
    limit: int,
    spread: timedelta = timedelta(0),
    sync_status: str = "not_applicable",
    most_abandoned: int = MOST_ABANDONED,
) -> int:
    """Take back jobs whose lease ran out; fail those abandoned too often in a row. Returns how many there were.

    An abandoned attempt costs no retry: the worker may have died of another job. A job that was abandoned once is
    due at once, one that was abandoned more often within `spread` times the number of times before.
    """
    return await _take_back(conn, attempt_statements.take_back(most_abandoned, limit, spread, sync_status))


async def take_back_one(conn: AsyncConnection, email_id: int, spread: timedelta, sync_status: str) -> int:
    """Take back this job alone, as `take_back` does with many."""
    return await _take_back(
        conn, attempt_statements.take_back(MOST_ABANDONED, 1, spread, sync_status, email_id)
    )


async def expired(conn: AsyncConnection, limit: int) -> Sequence[int]:
    """List jobs whose lease ran out."""
    return (await conn.scalars(attempt_statements.expired(limit))).all()


async def _take_back(conn: AsyncConnection, statement: Select[Any]) -> int:
    rescued = [row.processing_status for row in await conn.execute(statement)]
    for status in rescued:
        _TAKEN_BACK[status].inc()
    return len(rescued)
