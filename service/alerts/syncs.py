"""Alerts about syncs that fail or wait too long, and about targets that still have removed e-mails."""

from datetime import datetime, timedelta

from sqlalchemy import Integer, Interval, Row, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import COUNT_CAP, Condition, clean, number
from service.formatting import duration
from service.postgres.email_tables import OPEN_NOT_SYNCED, TO_SYNC
from service.postgres.removal_tables import TARGET_DUE

# Older failures cause no alert.
RECENT = timedelta(days=1)
MAX_READ = 1000
# A large purge takes some hours; a deletion that takes longer than this is refused, or the target is down.
DELETION_LATE = timedelta(days=1)


async def find(conn: AsyncConnection, limit: timedelta, now: datetime) -> list[Condition]:
    """Report syncs that failed within a day and syncs that wait longer than the limit, as one condition.

    The wait is counted from the begin of the sync: a person may start one long after the job has ended.
    """
    failed = (await conn.execute(_FAILED)).one()
    late = (await conn.execute(_LATE, {"limit": limit})).one()
    lines = []
    if failed.emails:
        some = "" if failed.emails < MAX_READ else " or more"
        lines.append(
            f"{number(failed.emails, 'e-mail')}{some} of the last {RECENT.days * 24} hours could not be synced."
            f"\nFor example {_example(failed)}"
        )
    if late.emails:
        lines.append(
            f"{number(late.emails, 'finished e-mail')} waited longer than {duration(limit)} for a sync,"
            f" the oldest for {duration(now - late.since)}.\nFor example {_example(late)}"
        )
    if not lines:
        return []
    summary = "E-mails could not be synced" if failed.emails else "Finished e-mails wait for their sync"
    email_id = failed.email_id if failed.emails else late.email_id
    detail = "\n".join([*lines, "`holdfast check` tests the target."])
    return [Condition("sync", "", min(failed.emails + late.emails, COUNT_CAP), summary, detail, email_id)]


async def find_deletions(conn: AsyncConnection, now: datetime) -> list[Condition]:
    """Report documents of removed e-mails that the targets should not have any more since yesterday."""
    late = (await conn.execute(_DELETIONS)).one()
    if late.code is None:  # none is late, or a target was set just now
        return []
    detail = (
        f"{number(late.documents, 'document')} of removed e-mails could not be replaced in a target"
        f" ({clean(late.code, 50)}), the oldest for {duration(now - late.since)}. Holdfast tries again by itself.\n"
        f"For example those of receipt {late.receipt_id}: `holdfast receipts show {late.receipt_id}`."
        " `holdfast check` tests the target."
    )
    return [Condition("sync", "deletions", late.documents, "A target still has removed e-mails", detail)]


def _example(found: Row[tuple[int, int, str, str]]) -> str:
    code, reason = clean(found.code or "", 50), clean(found.reason or "no attempt has ended yet")
    return f"e-mail {found.email_id}: {reason}{f' ({code})' if code else ''}"


# Limits in subqueries are unknown to the planner, so it scans the index in order. `sync_due_at` of a failed sync is
# the time of its failure.
_FAILED = text(f"""
SELECT counted.emails, counted.email_id, email.sync_error_code AS code, email.sync_error AS reason
FROM (
    SELECT count(*) AS emails, max(id) AS email_id FROM (
        SELECT id, sync_due_at FROM incoming_emails WHERE {OPEN_NOT_SYNCED} ORDER BY id DESC LIMIT (SELECT :most)
    ) AS newest WHERE sync_due_at > now() - :recent
) AS counted LEFT JOIN incoming_emails AS email ON email.id = counted.email_id
""").bindparams(  # noqa: S608 words of ours
    bindparam("most", MAX_READ, Integer()), bindparam("recent", RECENT, Interval())
)

_LATE = text(f"""
SELECT counted.emails, counted.since, counted.email_id,
    email.sync_error_code AS code, email.sync_error AS reason
FROM (
    SELECT count(*) AS emails, min(sync_begun_at) AS since,
        coalesce(min(id) FILTER (WHERE sync_error_code IS NOT NULL), min(id)) AS email_id
    FROM (
        SELECT id, sync_begun_at, sync_error_code FROM incoming_emails WHERE {TO_SYNC}
        ORDER BY sync_due_at LIMIT (SELECT :cap)
    ) AS due WHERE sync_begun_at < now() - :limit
) AS counted LEFT JOIN incoming_emails AS email ON email.id = counted.email_id
""").bindparams(  # noqa: S608 likewise
    bindparam("cap", COUNT_CAP, Integer()), bindparam("limit", type_=Interval())
)

_DELETIONS = text(f"""
SELECT count(*) AS documents, min(removed_at) AS since, min(receipt_id) AS receipt_id, min(target_error_code) AS code
FROM (
    SELECT removed_at, receipt_id, target_error_code FROM removed_emails
    WHERE {TARGET_DUE} AND removed_at < now() - :late ORDER BY target_due_at LIMIT (SELECT :cap)
) AS due
""").bindparams(  # noqa: S608 likewise
    bindparam("cap", COUNT_CAP, Integer()), bindparam("late", DELETION_LATE, Interval())
)
