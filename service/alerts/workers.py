"""Workers: a missing one, none while e-mails are due, and e-mails that wait too long for a first attempt."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import BigInteger, Integer, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import COUNT_CAP, Condition, clean, clock, number
from service.formatting import duration

# A worker writes a heartbeat every ten seconds.
MISSING = timedelta(seconds=60)
# After a day, treat a silent worker as decommissioned.
FORGOTTEN = timedelta(days=1)
MAX_WORKERS = 1000


class HeartbeatRow(Protocol):
    """A row of `workers`."""

    @property
    def name(self) -> str: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def seen_at(self) -> datetime: ...
    @property
    def stopped_at(self) -> datetime | None: ...


async def find_missing(conn: AsyncConnection, now: datetime) -> list[Condition]:
    """Report workers that died without a successor, and due e-mails without any worker."""
    rows: Sequence[HeartbeatRow] = (await conn.execute(_WORKERS)).all()
    conditions = []
    if gone := missing(rows, now):
        some = ", ".join(
            f"{clean(worker.name, 60)} (last seen at {clock(worker.seen_at)})" for worker in gone[:5]
        )
        some += f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        is_or_are = "is" if len(gone) == 1 else "are"
        detail = f"{number(len(gone), 'worker')} {is_or_are} missing, without a regular stop: {some}."
        conditions.append(Condition("workers", "", len(gone), "A worker is missing", detail))
    if not any(is_live(worker, now) for worker in rows):
        late, email_id = (await conn.execute(_OVERDUE)).one()
        if late:
            detail = (
                f"No worker has been seen for {duration(MISSING)}; {number(late, 'e-mail')} due.\n"
                f"For example e-mail {email_id}. Start a worker."
            )
            conditions.append(Condition("no_worker", "", late, "No worker is running", detail, email_id))
    return conditions


def is_live(worker: HeartbeatRow, now: datetime) -> bool:
    """Tell whether a worker runs and its heartbeat is recent."""
    return worker.stopped_at is None and worker.seen_at > now - MISSING


def missing(workers: Sequence[HeartbeatRow], now: datetime) -> list[HeartbeatRow]:
    """Return the workers that died without a successor.

    A successor is any worker that started after the last heartbeat, or up to a minute before, because deploys overlap.
    Its name and its later end do not matter. It succeeds one worker only: after A was replaced by B and B by C, none is
    missing.
    """
    successors = sorted(workers, key=lambda worker: worker.started_at)
    gone = []
    for dead in sorted(workers, key=lambda worker: worker.seen_at):
        if dead.stopped_at is None and not is_live(dead, now):
            least = max(dead.started_at, dead.seen_at - MISSING)
            successor = next((worker for worker in successors if worker.started_at > least), None)
            if successor is None:
                gone.append(dead)
            else:
                successors.remove(successor)
    return gone


async def find_waiting(
    conn: AsyncConnection, known_id: int, limit: timedelta, now: datetime
) -> list[Condition]:
    """Report e-mails that wait longer than the limit for their first attempt.

    Later attempts do not count, because e-mails pause before them. `known_id` was the newest id at the last turn:
    e-mails with higher ids may be replayed webhooks, which have old times but have just arrived.
    """
    late = (await conn.execute(_LATE, {"known": known_id, "limit": limit})).one()
    # At the cap, older e-mails may hide those without an attempt.
    count = late.read if late.read >= COUNT_CAP else late.not_begun
    if not count:
        return []
    since, email_id = (late.since, late.email_id) if late.not_begun else (late.oldest, late.oldest_id)
    detail = (
        f"{number(count, 'e-mail')} waited longer than {duration(limit)},"
        f" the oldest for {duration(now - since)}.\nFor example e-mail {email_id}."
    )
    return [Condition("waiting", "", count, "E-mails wait too long", detail, email_id)]


_WORKERS = text("""
SELECT name, pid, started_at, seen_at, stopped_at FROM workers
WHERE seen_at > now() - :forgotten ORDER BY seen_at DESC LIMIT :most
""").bindparams(bindparam("forgotten", FORGOTTEN, Interval()), bindparam("most", MAX_WORKERS, Integer()))

# Limits in subqueries are unknown to the planner, so it scans the index in order. Each sweep postpones due e-mails, so
# overdue ones mean that no worker of any version is running.
_OVERDUE = text("""
SELECT count(*), min(id) FROM (
    SELECT id FROM incoming_emails
    WHERE processing_status IN ('received', 'queued') AND due_at < now() - :missing
    ORDER BY due_at LIMIT (SELECT :cap)
) AS overdue
""").bindparams(bindparam("missing", MISSING, Interval()), bindparam("cap", COUNT_CAP, Integer()))

_LATE = text("""
SELECT count(*) AS read, min(received_at) AS oldest, min(id) AS oldest_id,
    count(*) FILTER (WHERE is_new) AS not_begun,
    min(received_at) FILTER (WHERE is_new) AS since,
    min(id) FILTER (WHERE is_new) AS email_id
FROM unnest(ARRAY['received', 'queued']) AS every(status) CROSS JOIN LATERAL (
    SELECT id, received_at, attempt_number = 0 AND id <= :known AS is_new FROM incoming_emails
    WHERE processing_status = every.status AND received_at < now() - :limit
    ORDER BY received_at LIMIT (SELECT :cap)
) AS late
""").bindparams(
    bindparam("known", type_=BigInteger()),
    bindparam("limit", type_=Interval()),
    bindparam("cap", COUNT_CAP, Integer()),
)
