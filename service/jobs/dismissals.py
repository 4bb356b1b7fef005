"""Dismissals of e-mails: a failure that nobody can repair stays as it is, and needs no attention any more.

A dismissal is in force for the attempts of job and sync that it names. A later one ends it, and nothing has to clear it.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    case,
    func,
    literal,
    literal_column,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.retries import lock_finished, record_action
from service.postgres.email_tables import DISMISSED, FINISHED, NOT_CAPTURED, NOT_DISMISSED, IncomingEmail

# Jobs that failed or lack files, and syncs that failed.
_HAS_FAILED = f"{FINISHED} AND (processing_status = 'failed' OR sync_status = 'failed' OR error_code = '{NOT_CAPTURED}')"
_CAN_BE = {"dismiss": f"{_HAS_FAILED} AND {NOT_DISMISSED}", "undismiss": DISMISSED}
_NOTHING = dict.fromkeys(
    ("dismissed_at", "dismissed_by", "dismiss_reason", "dismissed_attempt", "dismissed_sync_attempt"), null()
)


async def dismiss(conn: AsyncConnection, email_ids: Sequence[int], actor: str, reason: str) -> list[int]:
    """Dismiss those of these e-mails that failed; return their ids."""
    return await _execute(conn, *dismiss_parts(_in(email_ids), actor, reason))


async def undismiss(conn: AsyncConnection, email_ids: Sequence[int], actor: str) -> list[int]:
    """End the dismissals of these e-mails; return the ids of those that had one."""
    return await _execute(conn, *undismiss_parts(_in(email_ids), actor))


async def state_of(conn: AsyncConnection, email_id: int) -> tuple[str, bool] | None:
    """Return the state of a job, and whether it or its sync failed; None if there is no such e-mail."""
    has_failed: ColumnElement[bool] = literal_column(f"({_HAS_FAILED}) IS TRUE", Boolean)
    query = select(IncomingEmail.processing_status, has_failed).where(IncomingEmail.id == email_id)
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else (row[0], row[1])


async def failed_among(conn: AsyncConnection, email_ids: Sequence[int]) -> list[int]:
    """Return the ids of those e-mails that can be dismissed."""
    query = select(IncomingEmail.id).where(*_in(email_ids), text(_CAN_BE["dismiss"]))
    return list((await conn.scalars(query)).all())


def dismiss_parts(
    which: Sequence[ColumnElement[bool]], actor: str, reason: str, bulk_retry_id: int | None = None
) -> tuple[CTE, list[CTE]]:
    """Make the part of a statement that dismisses matching e-mails, and the part that records it."""
    sync_attempt = case((IncomingEmail.sync_status == "failed", IncomingEmail.sync_attempt_number))
    values = {
        "dismissed_at": func.now(),
        "dismissed_by": actor,
        "dismiss_reason": reason,
        "dismissed_attempt": IncomingEmail.attempt_number,
        "dismissed_sync_attempt": sync_attempt,
    }
    dismissed = _change("dismiss", which, values)
    return dismissed, record_action(dismissed, actor, "dismiss", bulk_retry_id, reason)


def undismiss_parts(
    which: Sequence[ColumnElement[bool]], actor: str, bulk_retry_id: int | None = None
) -> tuple[CTE, list[CTE]]:
    """Make the part of a statement that ends dismissals of matching e-mails, and the part that records it."""
    undismissed = _change("undismiss", which, _NOTHING)
    return undismissed, record_action(undismissed, actor, "undismiss", bulk_retry_id)


def _in(email_ids: Sequence[int]) -> Sequence[ColumnElement[bool]]:
    return (IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger))),)


def _change(action: str, which: Sequence[ColumnElement[bool]], values: Mapping[str, object]) -> CTE:
    locked = lock_finished(*which, text(_CAN_BE[action]))
    # The state was checked under the lock. Its predicate here would tempt the planner to read a whole partial index.
    return (
        update(IncomingEmail)
        .where(IncomingEmail.id == locked.c.id, text(FINISHED))
        .values(dict(values))
        .returning(IncomingEmail.id, IncomingEmail.attempt_number)
        .cte("changed")
    )


async def _execute(conn: AsyncConnection, changed: CTE, parts: Sequence[CTE]) -> list[int]:
    return list((await conn.scalars(select(changed.c.id).add_cte(*parts))).all())
