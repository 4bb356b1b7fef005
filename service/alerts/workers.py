"""Workers: one that is missing, none at all while something waits, and e-mails that none begins with."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import BigInteger, Integer, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.finding import COUNT_CAP, Finding, clean, clock, number
from service.formatting import duration

# A worker is seen every ten seconds.
MISSING = timedelta(seconds=60)
# Who is missing for so long was meant to go.
FORGOTTEN = timedelta(days=1)
MOST_WORKERS = 1000


class Seen(Protocol):
    """A row of `workers`."""

    @property
    def name(self) -> str: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def seen_at(self) -> datetime: ...
    @property
    def stopped_at(self) -> datetime | None: ...


async def find_missing(conn: AsyncConnection, now: datetime) -> list[Finding]:
    """Find workers that died without a successor, and jobs that wait though nobody is there."""
    rows: Sequence[Seen] = (await conn.execute(_WORKERS)).all()
    findings = []
    if gone := missing(rows, now):
        some = ", ".join(
            f"{clean(worker.name, 60)} (last seen at {clock(worker.seen_at)})" for worker in gone[:5]
        )
        some += f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        is_or_are = "is" if len(gone) == 1 else "are"
        detail = f"{number(len(gone), 'worker')} {is_or_are} missing, and did not stop in order: {some}."
        findings.append(Finding("workers", "", len(gone), "A worker is missing", detail))
    if not any(is_live(worker, now) for worker in rows):
        late, email_id = (await conn.execute(_OVERDUE)).one()
        if late:
            detail = (
                f"No worker has been seen for {duration(MISSING)}, and {number(late, 'e-mail')} would be due.\n"
                f"For example e-mail {email_id}. Start a worker."
            )
            findings.append(Finding("no_worker", "", late, "No worker is there", detail, email_id))
    return findings


def is_live(worker: Seen, now: datetime) -> bool:
    return worker.stopped_at is None and worker.seen_at > now - MISSING


def missing(workers: Sequence[Seen], now: datetime) -> list[Seen]:
    """Return those that died, and in whose place none was started.

    Any worker that was started after it was last seen (a minute before will do: a deploy overlaps) is a successor,
    whatever its name, also if it died or stopped later; but of one only. Then, after A was replaced by B and B by C,
    nobody is missing.
    """
    successors = sorted(workers, key=lambda worker: worker.started_at)
    gone = []
    for dead in sorted(workers, key=lambda worker: worker.seen_at):
        if dead.stopped_at is None and not is_live(dead, now):
            least = max(dead.started_at, dead.seen_at - MISSING)
            heir = next((worker for worker in successors if worker.started_at > least), None)
            if heir is None:
                gone.append(dead)
            else:
                successors.remove(heir)
    return gone


async def find_waiting(
    conn: AsyncConnection, known_id: int, limit: timedelta, now: datetime
) -> list[Finding]:
    """Find e-mails that no worker has begun with for longer than the limit.

    What had an attempt is not meant: it pauses before the next, or somebody runs it again. `known_id` was the
    newest e-mail some time ago: what was replayed since then is old by its time, but has only just come.
    """
    late = (await conn.execute(_LATE, {"known": known_id, "limit": limit})).one()
    # So many older ones may hide what has not begun.
    count = late.read if late.read >= COUNT_CAP else late.not_begun
    if not count:
        return []
    since, email_id = (late.since, late.email_id) if late.not_begun else (late.oldest, late.oldest_id)
    detail = (
        f"{number(count, 'e-mail')} waited for longer than {duration(limit)},"
        f" the oldest for {duration(now - since)}.\nFor example e-mail {email_id}."
    )
    return [Finding("waiting", "", count, "E-mails wait for too long", detail, email_id)]


_WORKERS = text("""
SELECT name, pid, started_at, seen_at, stopped_at FROM workers
WHERE seen_at > now() - :forgotten ORDER BY seen_at DESC LIMIT :most
""").bindparams(bindparam("forgotten", FORGOTTEN, Interval()), bindparam("most", MOST_WORKERS, Integer()))

# Limits that the planner does not know make it walk the index, whatever it believes to be there.
# A sweep postpones what is due: where nothing does, there is no worker of any version.
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
