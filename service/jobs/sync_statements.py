"""The SQL statements of syncs: which rows they claim, what they write, and in which order they lock rows."""

from typing import Any

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
    func,
    null,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.types import TypeEngine

from service.postgres.email_tables import TO_SYNC, IncomingEmail, key_of_email
from service.postgres.message_tables import MergedEmail
from service.postgres.rows import rows_of

REQUEST: dict[str, TypeEngine[Any]] = {"email_id": BigInteger(), "lease": Interval()}
SETTLEMENT: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("email_id", "version", "attempt_number", "retry_count"), BigInteger()),
    **dict.fromkeys(("outcome", "status", "error_code", "error"), Text()),
    "delay": Interval(),
}
_email = IncomingEmail.__table__.c


def _leased(lease: ColumnElement[Any]) -> dict[str, Any]:
    """Return the columns of a lease; it doubles with each unsettled attempt, so that a sync ends few workers."""
    return {
        "sync_due_at": func.now() + func.power(2, IncomingEmail.sync_unsettled) * lease,
        "sync_attempt_number": IncomingEmail.sync_attempt_number + 1,
        "sync_unsettled": IncomingEmail.sync_unsettled + 1,
    }


_CLAIMED = (
    *_email["id", "attempt_number", "sync_attempt_number"],
    func.coalesce(IncomingEmail.sync_retry_count, 0).label("sync_retry_count"),
    (IncomingEmail.sync_unsettled - 1).label("unsettled"),
    cast(func.extract("epoch", func.now() - IncomingEmail.sync_begun_at), Double).label("age"),
    func.coalesce(IncomingEmail.invocation_id, key_of_email()).label("invocation"),
    _email.sync_begun_at,
)


def _claim() -> Select[Any]:
    request = rows_of("request", REQUEST)
    free = (
        select(*request.c)
        .join_from(request, IncomingEmail, IncomingEmail.id == request.c.email_id)
        .where(text(TO_SYNC), IncomingEmail.sync_due_at <= func.now())
        .order_by(request.c.email_id)  # so that two batches do not deadlock
        .with_for_update(key_share=True, of=IncomingEmail)
        .cte("free")
    )
    claimed = (
        update(IncomingEmail)
        .where(IncomingEmail.id == free.c.email_id)
        .values(**_leased(free.c.lease))
        .returning(free.c.place, *_CLAIMED)
        .cte("claimed")
    )
    return select(claimed)


def _claim_due() -> Select[Any]:
    """Claim due syncs; of suspects, at most `room` with exactly this number of `unsettled` attempts in a row."""
    # Suspects wait for each other, and other syncs for none of them: each kind has a limit of its own.
    most = bindparam("most", type_=BigInteger())
    others = _due("others", IncomingEmail.sync_unsettled == 0, most)
    first = _due_first(most).with_only_columns(IncomingEmail.id)  # behind them, suspects may be far between
    in_turn = IncomingEmail.sync_unsettled == bindparam("unsettled", type_=BigInteger())
    suspects = _due(
        "suspects", and_(in_turn, IncomingEmail.id.in_(first)), bindparam("room", type_=BigInteger())
    )
    due = union_all(select(suspects.c.id), select(others.c.id)).limit(most).cte("due")
    claimed = (
        update(IncomingEmail)
        .where(IncomingEmail.id == due.c.id)
        .values(**_leased(bindparam("lease", type_=Interval())))
        .returning(*_CLAIMED)
        .cte("claimed")
    )
    return select(claimed)


def _due(name: str, which: ColumnElement[bool], limit: ColumnElement[int]) -> CTE:
    """Lock the syncs that have been due for longest, of those that match."""
    due = _due_first(limit).where(which).with_only_columns(IncomingEmail.id)
    return due.with_for_update(key_share=True, skip_locked=True).cte(name)


def _due_first(limit: ColumnElement[int]) -> Select[Any]:
    return (
        select(*_email["sync_unsettled", "sync_due_at"])
        .where(text(TO_SYNC), IncomingEmail.sync_due_at <= func.now())
        .order_by(IncomingEmail.sync_due_at)
        .limit(limit)
    )


def _next_unsettled() -> Select[Any]:
    """Return the unsettled attempts of the suspect that is due for longest, among the rows of `_claim_due`."""
    due = _due_first(bindparam("most", type_=BigInteger())).subquery("due")
    suspects = select(due.c.sync_unsettled).where(due.c.sync_unsettled > 0)
    return suspects.order_by(due.c.sync_due_at).limit(1)


def _settle() -> Select[Any]:
    asked = rows_of("settlement", SETTLEMENT)
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
            # Counted from the claim, not from the row: this may be repeated, and an attempt costs one retry.
            sync_retry_count=mine.c.retry_count + case((mine.c.outcome == "released", 1), else_=0),
            sync_due_at=func.now() + mine.c.delay,
            sync_unsettled=0,
            sync_error_code=case((is_synced, null()), else_=mine.c.error_code),
            sync_error=case((is_synced, null()), else_=mine.c.error),
            synced_at=case((is_synced, func.now()), else_=IncomingEmail.synced_at),
        )
        .returning(mine.c.place, IncomingEmail.id, IncomingEmail.sync_status)
        .cte("left")
    )
    # Since the claim, no other e-mail became part of this one: that would have begun another sync.
    told = (
        update(MergedEmail)
        .where(
            MergedEmail.email_id == left.c.id, left.c.sync_status == "synced", MergedEmail.synced_at.is_(None)
        )
        .values(synced_at=func.now())
        .returning(MergedEmail.id)
        .cte("told")
    )
    return select(left.c.place).add_cte(told)


# Built once: building a statement takes longer than running it.
CLAIM, CLAIM_DUE, NEXT_UNSETTLED, SETTLE = _claim(), _claim_due(), _next_unsettled(), _settle()
