"""The SQL statements of attempts: which states they leave, what they write, and in which order they lock rows."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    Interval,
    Select,
    TableValuedAlias,
    Text,
    TextClause,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlalchemy.types import TypeEngine

from service.postgres import evidence_log
from service.postgres.email_tables import (
    FINISHED,
    PROCESSING,
    WAITING,
    Attempt,
    IncomingEmail,
    is_listed,
    key_of_email,
)
from service.postgres.message_tables import Announcement
from service.postgres.prepared import Prepared
from service.postgres.rows import rows_of

ATTEMPT: dict[str, TypeEngine[Any]] = {"email_id": BigInteger(), "attempt_number": BigInteger()}
REQUEST = {**ATTEMPT, "worker": Text(), "lease": Interval()}
SETTLEMENT = {
    **ATTEMPT,
    **dict.fromkeys(("outcome", "status", "error_code", "error", "error_host"), Text()),
    "delay": Interval(),
    "sync_status": Text(),
}
REFUSAL = {**ATTEMPT, **dict.fromkeys(("error_code", "error", "error_host", "sync_status"), Text())}
ABANDONED = "The worker died or lost its connection to Postgres during the attempt. Another attempt follows."
ABANDONED_FOR_GOOD = (
    "Look up the workers of the last {} attempts in their logs, remove what ended them, then retry this e-mail."
    " Each of these workers died, hung or lost Postgres while it processed this e-mail, the last ones while they"
    " processed no other suspect. The usual reasons are too little memory, a crash or a long outage of Postgres."
)
_LEFT = IncomingEmail.__table__.c["id", "attempt_number", "error_code", "processing_error"]


def expired(limit: int) -> Select[int]:
    """Build the statement that lists jobs with an expired lease."""
    return (
        select(IncomingEmail.id)
        # No lease: a worker from before there were leases claimed it.
        .where(text(PROCESSING), func.coalesce(IncomingEmail.lease_until, func.now()) <= func.now())
        .order_by(IncomingEmail.lease_until)
        .limit(limit)
    )


def take_back(
    most_abandoned: int, limit: int, spread: timedelta, sync_status: str, email_id: int | None = None
) -> Select[Any]:
    """Build the statement that ends attempts with an expired lease; with `email_id`, only those of this job."""
    these = expired(limit)
    these = these if email_id is None else these.where(IncomingEmail.id == email_id)
    ended = these.with_for_update(skip_locked=True).cte("expired")
    another = IncomingEmail.abandoned_count + 1 < most_abandoned
    due_at = func.now() + IncomingEmail.abandoned_count * func.random() * literal(spread)
    left = (
        update(IncomingEmail)
        .where(IncomingEmail.id == ended.c.id)
        .values(
            processing_status=case((another, "queued"), else_="failed"),
            abandoned_count=IncomingEmail.abandoned_count + 1,
            completed_at=case((~another, func.now())),
            due_at=due_at,
            queued_at=case((another, due_at), else_=IncomingEmail.queued_at),
            lease_until=None,
            error_code="abandoned",
            error_host=None,
            processing_error=case((another, ABANDONED), else_=ABANDONED_FOR_GOOD.format(most_abandoned)),
            **_start_sync(~another, literal(sync_status)),
        )
        .returning(
            literal("abandoned").label("outcome"),
            IncomingEmail.processing_status,
            *_LEFT,
            evidence_log.column(evidence_log.ended("incoming_emails", "'abandoned'")),
        )
        .cte("left")
    )
    return _end_attempts(left)


def _claim() -> Select[Any]:
    request = rows_of("request", REQUEST)
    is_next = IncomingEmail.attempt_number == request.c.attempt_number - 1
    free = _locked("free", request, text(WAITING), is_next)
    claimed = (
        update(IncomingEmail)
        .where(IncomingEmail.id == free.c.email_id)
        .values(
            processing_status="processing",
            attempt_number=free.c.attempt_number,
            started_at=func.now(),
            lease_until=func.now() + free.c.lease,
            has_news=False,
        )
        .returning(free.c.place, free.c.worker, *_claimed_columns())
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
    return select(claimed).add_cte(begun)


def _claimed_columns() -> Iterator[ColumnElement[Any]]:
    """Yield the columns of a claim, in the order of the fields of `Claim`."""
    yield from IncomingEmail.__table__.c["id", "attempt_number"]
    # A row of another system may lack these.
    yield func.coalesce(IncomingEmail.retry_count, 0).label("retry_count")
    yield func.coalesce(IncomingEmail.zendesk_ticket_id, "").label("ticket")
    yield IncomingEmail.__table__.c.comment_id
    yield is_listed().label("is_listed")
    yield IncomingEmail.looked_up_at.is_not(None).label("looked_up")
    yield func.coalesce(func.octet_length(cast(IncomingEmail.attachment_urls, Text)), 0).label("bytes")
    yield func.coalesce(_seconds_since(IncomingEmail.received_at), 0.0).label("age")
    yield func.coalesce(IncomingEmail.invocation_id, key_of_email()).label("invocation")
    yield IncomingEmail.__table__.c.reread
    yield _seconds_since(_queued_at()).label("waited")
    yield IncomingEmail.raw_body.is_not(None).label("has_body")
    yield IncomingEmail.__table__.c.account_id
    yield _announced_of()


def _announced_of() -> ColumnElement[int | None]:
    """Return the e-mail of which this one's request is an announcement already.

    An insert that waited for a merge of its e-mail did not see the announcement, for it looked before it waited.
    """
    # Scalar subqueries: for an EXISTS, Postgres may choose to read the whole table.
    return func.coalesce(
        *(
            select(Announcement.email_id)
            .where(
                *(column == value, Announcement.raw_body == IncomingEmail.raw_body),
                Announcement.email_id != IncomingEmail.id,
            )
            .limit(1)
            .scalar_subquery()
            for column, value in (
                (Announcement.idempotency_key, IncomingEmail.idempotency_key),
                (Announcement.signature_hash, IncomingEmail.signature_hash),
            )
        )
    )


def _seconds_since(time: SQLCoreOperations[Any]) -> ColumnElement[float]:
    return cast(func.extract("epoch", func.now() - time), Double)


def _refuse() -> Select[Any]:
    refusal = rows_of("refusal", REFUSAL)
    is_next = IncomingEmail.attempt_number == refusal.c.attempt_number - 1
    free = _locked("free", refusal, text(WAITING), is_next)
    refused = (
        update(IncomingEmail)
        .where(IncomingEmail.id == free.c.email_id)
        .values(
            processing_status="failed",
            # Each end of a job has its own number: it is the version of the document.
            attempt_number=free.c.attempt_number,
            completed_at=func.now(),
            error_code=free.c.error_code,
            error_host=free.c.error_host,
            processing_error=free.c.error,
            **_start_sync(true(), free.c.sync_status),
        )
        .returning(
            free.c.place,
            IncomingEmail.__table__.c.id,
            IncomingEmail.__table__.c.attempt_number,
            evidence_log.column(evidence_log.ended("incoming_emails")),
        )
        .cte("refused")
    )
    entered = evidence_log.entries("ended", refused, refused.c.id, refused.c.attempt_number)
    return select(refused.c.place).add_cte(entered)


def _queued_at() -> ColumnElement[Any]:
    """Return since when a job waits; rows from before `queued_at` count from their receipt, for a first attempt."""
    before = case((IncomingEmail.attempt_number == 1, IncomingEmail.received_at), else_=func.now())
    return func.coalesce(IncomingEmail.queued_at, before, func.now())


def _renew() -> ReturningUpdate[int, int]:
    mine = _claimed(rows_of("attempt", ATTEMPT))
    return (
        update(IncomingEmail)
        .where(IncomingEmail.id == mine.c.email_id)
        .values(lease_until=func.now() + bindparam("lease", type_=Interval()))
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
    )


def _settle() -> tuple[Select[Any], Select[Any]]:
    """Build the statement that settles attempts, and the one that finds those settled in the same way already."""
    asked = rows_of("settlement", SETTLEMENT)
    mine = _claimed(asked)
    # More files were announced during the attempt: another one follows it, and an end gives that all retries.
    is_queued = or_(mine.c.status == "queued", IncomingEmail.has_news)
    retries = func.coalesce(IncomingEmail.retry_count, 0) + case((mine.c.outcome == "released", 1), else_=0)
    left = (
        update(IncomingEmail)
        .where(IncomingEmail.id == mine.c.email_id)
        .values(
            processing_status=case((is_queued, "queued"), else_=mine.c.status),
            has_news=False,
            retry_count=case((and_(is_queued, mine.c.status != "queued"), 0), else_=retries),
            # A shutdown says nothing about the e-mail; after any other end it is no suspect.
            abandoned_count=case((mine.c.outcome == "handed_back", IncomingEmail.abandoned_count), else_=0),
            completed_at=case((~is_queued, func.now())),
            due_at=case((is_queued, func.now() + mine.c.delay), else_=IncomingEmail.due_at),
            queued_at=case((is_queued, func.now() + mine.c.delay), else_=IncomingEmail.queued_at),
            lease_until=None,
            error_code=mine.c.error_code,
            error_host=mine.c.error_host,
            processing_error=mine.c.error,
            **_start_sync(~is_queued, mine.c.sync_status),
        )
        .returning(
            mine.c.place,
            mine.c.outcome,
            IncomingEmail.processing_status,
            *_LEFT,
            evidence_log.column(evidence_log.ended("incoming_emails", "mine.outcome")),
        )
        .cte("left")
    )
    attempt = tuple_(Attempt.email_id, Attempt.number, Attempt.outcome)
    wanted = tuple_(*asked.c["email_id", "attempt_number", "outcome"])
    return _end_attempts(left), select(asked.c.place).join_from(asked, Attempt, attempt == wanted)


def _start_sync(has_ended: ColumnElement[bool], status: ColumnElement[str]) -> dict[str, ColumnElement[Any]]:
    """Return columns that start the sync of a job that ends, with a fresh budget; other jobs keep their sync."""
    begun = {
        "sync_status": status,
        "sync_due_at": func.now(),
        "sync_begun_at": func.now(),
        "sync_retry_count": literal(0),
        "sync_unsettled": literal(0),
        "sync_error": null(),
        "sync_error_code": null(),
    }
    columns = IncomingEmail.__table__.c
    return {name: case((has_ended, value), else_=columns[name]) for name, value in begun.items()}


def _claimed(attempts: TableValuedAlias) -> CTE:
    is_mine = IncomingEmail.attempt_number == attempts.c.attempt_number
    return _locked("mine", attempts, text(PROCESSING), is_mine)


def _locked(name: str, attempts: TableValuedAlias, *guard: ColumnElement[bool] | TextClause) -> CTE:
    """Lock the jobs that pass the guard, in the order of ids, so that two batches do not deadlock."""
    return (
        select(*attempts.c)
        .join_from(attempts, IncomingEmail, IncomingEmail.id == attempts.c.email_id)
        .where(*guard)
        .order_by(attempts.c.email_id)
        .with_for_update(key_share=True, of=IncomingEmail)
        .cte(name)
    )


def _end_attempts(left: CTE) -> Select[Any]:
    """Record the ends of the attempts whose jobs left the state; return the rows of `left`."""
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
    return select(*_without_facts(left)).add_cte(ended, _enter_ends(left))


def _enter_ends(left: CTE) -> CTE:
    has_ended = literal_column(FINISHED, Boolean)
    return evidence_log.entries("ended", left, left.c.id, left.c.attempt_number, has_ended)


def _without_facts(left: CTE) -> list[ColumnElement[Any]]:
    return [column for column in left.c if column.name != "facts"]


# Built once: building a statement takes longer than running it.
CLAIM = Prepared(_claim())
REFUSE = _refuse()
RENEW = _renew()
_SETTLE, SETTLED = _settle()
SETTLE = Prepared(_SETTLE)
