"""Syncs: e-mails that could not be synced, and finished ones that wait too long because a target is away."""

from datetime import datetime, timedelta

from sqlalchemy import Integer, Interval, Row, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.finding import COUNT_CAP, Finding, clean, number
from service.formatting import duration
from service.postgres.email_tables import NOT_SYNCED, TO_SYNC

# What failed longer ago is no news: who left it there knows of it.
RECENT = timedelta(days=1)
MOST_READ = 1000


async def find(conn: AsyncConnection, limit: timedelta, now: datetime) -> list[Finding]:
    """Find out whether syncs failed within a day, and nobody has begun them again; and whether some are late.

    It is one finding, whatever is the matter with a target. How long a sync waits is counted from when it began, so
    not from the end of a job that somebody wants synced once more.
    """
    failed = (await conn.execute(_FAILED)).one()
    late = (await conn.execute(_LATE, {"limit": limit})).one()
    lines = []
    if failed.emails:
        some = "" if failed.emails < MOST_READ else " or more"
        lines.append(
            f"{number(failed.emails, 'e-mail')}{some} of the last {RECENT.days * 24} hours could not be synced."
            f"\nFor example {_example(failed)}"
        )
    if late.emails:
        lines.append(
            f"{number(late.emails, 'finished e-mail')} waited for longer than {duration(limit)} to be synced,"
            f" the oldest for {duration(now - late.since)}.\nFor example {_example(late)}"
        )
    if not lines:
        return []
    summary = "E-mails could not be synced" if failed.emails else "Finished e-mails wait for their sync"
    email_id = failed.email_id if failed.emails else late.email_id
    detail = "\n".join([*lines, "`holdfast check` looks at the target."])
    return [Finding("sync", "", min(failed.emails + late.emails, COUNT_CAP), summary, detail, email_id)]


def _example(found: Row[tuple[int, int, str, str]]) -> str:
    code, reason = clean(found.code or "", 50), clean(found.reason or "no attempt of it has ended yet")
    return f"e-mail {found.email_id}: {reason}{f' ({code})' if code else ''}"


# Limits that the planner does not know make it walk the index, whatever it believes to be there. Of what failed,
# `sync_due_at` is when it did.
_FAILED = text(f"""
SELECT counted.emails, counted.email_id, email.sync_error_code AS code, email.sync_error AS reason
FROM (
    SELECT count(*) AS emails, max(id) AS email_id FROM (
        SELECT id, sync_due_at FROM incoming_emails WHERE {NOT_SYNCED} ORDER BY id DESC LIMIT (SELECT :most)
    ) AS newest WHERE sync_due_at > now() - :recent
) AS counted LEFT JOIN incoming_emails AS email ON email.id = counted.email_id
""").bindparams(  # noqa: S608 words of ours
    bindparam("most", MOST_READ, Integer()), bindparam("recent", RECENT, Interval())
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
