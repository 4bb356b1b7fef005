"""Alerts about evidence: a verification found changes on record, or no verification has ended for long."""

from datetime import timedelta

from sqlalchemy import Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition, number
from service.formatting import duration

# The alert is raised after this time without a verification, or after two of their pauses if those are longer.
LEAST_LATE = timedelta(days=2)


async def find(conn: AsyncConnection, verify_hours: int) -> list[Condition]:
    """Report findings of the last verification, and verifications that do not end."""
    conditions = []
    found = (await conn.execute(_FOUND)).one()
    if count := found.findings + found.objects:
        detail = (
            f"The last verification compared what is on record with the evidence log: {number(count, 'finding')}.\n"
            "`holdfast evidence status` shows them, and docs/evidence.md says what each means. After a repair, or once you"
            " know the reason, `holdfast evidence verify` compares again."
        )
        summary = "What is on record differs from the evidence log"
        conditions.append(Condition("evidence", "", count, summary, detail))
    limit = max(LEAST_LATE, 2 * timedelta(hours=verify_hours))
    if verify_hours and (age := await conn.scalar(_LATE, {"limit": limit})) is not None:
        detail = (
            f"No verification of the evidence log has ended for {duration(age)}; a worker begins one every"
            f" {duration(verify_hours * 3600)}.\n"
            "`holdfast evidence verify --no-objects` verifies now, and shows what it meets."
        )
        conditions.append(Condition("evidence", "late", 1, "The evidence log is not verified", detail))
    return conditions


# A verification that reads no files says nothing about those that an earlier one found missing or changed.
_FOUND = text("""
SELECT coalesce((
    SELECT CAST(counts ->> 'findings' AS bigint) FROM evidence_verifications
    WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1
), 0) AS findings, coalesce((
    SELECT count(*) FROM json_array_elements(
        (SELECT findings FROM evidence_verifications WHERE ended_at IS NOT NULL AND with_objects ORDER BY id DESC LIMIT 1)
    ) AS finding
    WHERE finding ->> 'code' LIKE 'object%'
        AND NOT (SELECT with_objects FROM evidence_verifications WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1)
), 0) AS objects
""")
# Without a worker, another alert is open. A worker that started just now needs some time.
_LATE = text("""
SELECT extract(epoch FROM age) FROM (
    SELECT now() - greatest((SELECT max(ended_at) FROM evidence_verifications), began_at) AS age FROM evidence_log
) AS newest
WHERE age > :limit AND EXISTS (
    SELECT FROM workers
    WHERE stopped_at IS NULL AND seen_at > now() - interval '1 minute' AND started_at < now() - interval '3 hours'
)
""").bindparams(bindparam("limit", type_=Interval()))
