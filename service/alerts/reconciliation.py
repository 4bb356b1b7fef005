"""Reconciliations: they found what was not put right, or none is done, or gets on, any more."""

from datetime import timedelta

from sqlalchemy import DateTime, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.finding import Finding
from service.formatting import duration
from service.reconcile.differences import WORDS, open_differences

# They are hourly: so long none was done only if something keeps them from it.
LIMIT = timedelta(hours=3)


async def find(conn: AsyncConnection, reconcile_hours: int) -> list[Finding]:
    """Find what runs found and nobody put right, and that nothing compares."""
    findings = []
    there = await open_differences(conn)
    if there.total:
        found = ", ".join(f"{count:,} {WORDS[kind]}" for kind, count in there.by_kind.items() if count)
        least = "At least " if there.may_be_more else ""
        detail = (
            f"{least}{there.total:,} difference{'' if there.total == 1 else 's'} between what is on record and"
            f" what is there: {found}.\n"
            "`holdfast reconcile list` shows the runs. `holdfast reconcile --fix` puts it right, `holdfast"
            " storage verify --fix` what a verification found. What was put right in another way is seen when"
            " `holdfast reconcile` looks there again."
        )
        findings.append(
            Finding("reconciliation", "", there.total, "Something differs from what is on record", detail)
        )
    late = {"limit": LIMIT, "compared_at": there.compared_at}
    if reconcile_hours and (ago := await conn.scalar(_LATE, late)) is not None:
        detail = (
            f"No reconciliation was done, or got on, for {duration(ago)}; workers do one each hour.\n"
            "`holdfast reconcile list` shows why the last one was not, and so does a worker's log."
        )
        findings.append(
            Finding("reconciliation", "late", 1, "Nothing compares what is there any more", detail)
        )
    return findings


# Where there was no worker for so long there is another alert.
_LATE = text("""
SELECT age FROM (
    SELECT now() - coalesce(
        :compared_at, (SELECT min(started_at) FROM workers WHERE seen_at > now() - :limit)
    ) AS age
) AS newest
WHERE age > :limit AND EXISTS (
        SELECT FROM workers WHERE started_at < now() - :limit AND seen_at > now() - :limit
    )
    AND EXISTS (SELECT FROM workers WHERE stopped_at IS NULL AND seen_at > now() - interval '1 minute')
""").bindparams(bindparam("limit", type_=Interval()), bindparam("compared_at", type_=DateTime(timezone=True)))
