"""Reconciliations: they found what was not put right, or none is done any more."""

from datetime import timedelta

from sqlalchemy import Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.finding import Finding, duration, number
from service.operations import DIFFERENCES

# They are hourly: so long none was done only if something keeps them from it.
LIMIT = timedelta(hours=3)
_SAY = {
    "missing": "missing in the target",
    "different": "different in the target",
    "ahead": "ahead of the record in the target",
    "extra": "in the target without an e-mail",
    "object_missing": "missing in the storage",
    "object_damaged": "damaged in the storage",
    "object_unreadable": "in the storage and cannot be read",
}


async def find(conn: AsyncConnection, reconcile_hours: int) -> list[Finding]:
    """Find what the newest runs left as it was, and that there is no new one."""
    findings = []
    counts = {kind: int(count) for kind, count in await conn.execute(_LEFT)}
    if counts:
        found = ", ".join(f"{counts[kind]:,} {_SAY[kind]}" for kind in DIFFERENCES if kind in counts)
        total = sum(counts.values())
        detail = (
            f"{number(total, 'difference')} between what is on record and what is there: {found}.\n"
            "`holdfast reconcile list` shows the runs. `holdfast reconcile --fix` puts it right, `holdfast"
            " storage verify --fix` what a verification found."
        )
        findings.append(
            Finding("reconciliation", "", total, "Something differs from what is on record", detail)
        )
    if reconcile_hours and (ago := await conn.scalar(_LATE, {"limit": LIMIT})) is not None:
        detail = (
            f"No reconciliation was done for {duration(ago)}; workers do one each hour.\n"
            "`holdfast reconcile list` shows why the last one was not, and so does a worker's log."
        )
        findings.append(
            Finding("reconciliation", "late", 1, "Nothing compares what is there any more", detail)
        )
    return findings


# What the newest run left of documents, and of objects all since a whole one: each hour has another part of them. What
# the newest verification left stands for itself. Limits that the planner does not know make it walk the index.
_LEFT = text(f"""
WITH recent AS (
    SELECT * FROM reconciliations WHERE kind = 'reconcile' AND status = 'done'
    ORDER BY id DESC LIMIT (SELECT 30)
), since_whole AS (
    SELECT * FROM recent WHERE id >= coalesce(
        (SELECT max(id) FROM recent WHERE since IS NULL AND part IS NULL), 0
    ) AND finished_at > now() - interval '25 hours'
), counted AS (
    SELECT kind, repaired, counts, 'object%' AS of_kinds FROM since_whole
    UNION ALL (SELECT kind, repaired, counts, '' FROM recent ORDER BY id DESC LIMIT 1)
    UNION ALL (
        SELECT kind, repaired, counts, 'object%' FROM reconciliations
        WHERE kind = 'verify' AND status = 'done' ORDER BY id DESC LIMIT 1
    )
)
SELECT found.key AS kind, sum(found.value::bigint - coalesce((repaired ->> found.key)::bigint, 0))::bigint AS count
FROM counted CROSS JOIN LATERAL json_each_text(counts) AS found (key, value)
WHERE found.key IN ({", ".join(map(repr, DIFFERENCES))})
    AND (found.key LIKE 'object%') = (of_kinds = 'object%')
GROUP BY found.key
HAVING sum(found.value::bigint - coalesce((repaired ->> found.key)::bigint, 0)) > 0
""")  # noqa: S608 words of ours

# Where there was no worker for so long there is another alert.
_LATE = text("""
SELECT age FROM (
    SELECT now() - coalesce(
        (
            SELECT finished_at FROM reconciliations WHERE kind = 'reconcile' AND status = 'done'
            ORDER BY id DESC LIMIT 1
        ),
        (SELECT min(started_at) FROM workers WHERE seen_at > now() - :limit)
    ) AS age
) AS newest
WHERE age > :limit AND EXISTS (
        SELECT FROM workers WHERE started_at < now() - :limit AND seen_at > now() - :limit
    )
    AND EXISTS (SELECT FROM workers WHERE stopped_at IS NULL AND seen_at > now() - interval '1 minute')
""").bindparams(bindparam("limit", type_=Interval()))
