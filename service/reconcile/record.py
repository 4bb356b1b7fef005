"""The table of reconciliations: begin a run, save its findings and progress, end it.

An abandoned run can write nothing more.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import (
    BigInteger,
    DateTime,
    Integer,
    Interval,
    Text,
    bindparam,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.postgres.reconciliation_tables import DISMISSED_FINDING
from service.reconcile.finding import Finding, Fix, Run, Totals

# A run without progress for so long is abandoned.
NO_PROGRESS = timedelta(minutes=5)
KEPT = timedelta(days=90)
TRIM_BATCH = 20  # runs, with their findings
PARTS = 24  # of the storage, one per hour

# The part of a statement that inserts findings of the run in the CTE `mine`.
ARRAYS = {"kinds": Text, "ids": BigInteger, "keys": Text, "details": Text, "repairs": Text}
# An e-mail may have been erased since it was read, with all findings about it: the lock waits for that.
PRESENT = "SELECT id FROM incoming_emails WHERE id = ANY(:ids) ORDER BY id FOR KEY SHARE"
INSERT_FINDINGS = f"""
    WITH present AS ({PRESENT})
    INSERT INTO reconciliation_findings (
        reconciliation_id, kind, email_id, key, detail, repair, repaired_at,
        dismissed_at, dismissed_by, dismiss_reason
    )
    SELECT mine.id, found.kind, found.email_id, found.key, CAST(found.detail AS json), found.repair,
        CASE WHEN found.repair IS NOT NULL THEN now() END, known.*
    FROM mine CROSS JOIN unnest(:kinds, :ids, :keys, :details, :repairs)
        AS found (kind, email_id, key, detail, repair)
    -- A difference that was dismissed, and that was there ever since, stays dismissed.
    LEFT JOIN LATERAL (
        SELECT dismissed_at, dismissed_by, dismiss_reason FROM reconciliation_findings
        WHERE key = found.key AND kind = found.kind AND {DISMISSED_FINDING}
        ORDER BY id DESC LIMIT 1
    ) AS known ON true
    WHERE found.email_id IS NULL OR found.email_id IN (SELECT id FROM present)
    RETURNING id
"""  # noqa: S608 words of ours


async def begin(
    conn: AsyncConnection, *, actor: str, fix: Fix, since: datetime | None, targets: str | None
) -> Run | None:
    """Begin a run over the whole storage; None if a run is in progress."""
    given = {"actor": actor, "fix": fix, "since": since, "targets": targets}
    return await _begin(conn, {**given, "part": None})


async def begin_hourly(
    conn: AsyncConnection, *, fix: Fix, hours: int, targets: str | None, pause: timedelta
) -> Run | None:
    """Begin the run of this hour; None if a run is in progress, or an hourly run began less than `pause` ago."""
    recent = await conn.scalar(_RECENT, {"pause": pause})
    if recent:
        return None
    since = await conn.scalar(_AGO, {"ago": timedelta(hours=hours)})
    part = await conn.scalar(_NEXT_PART)
    given = {"actor": "reconcile", "fix": fix, "since": since, "targets": targets, "part": part}
    return await _begin(conn, given)


async def save(conn: AsyncConnection, run: Run, findings: Sequence[Finding] = ()) -> None:
    """Save progress and findings; raises Rejected if the run was cancelled or abandoned."""
    if not await conn.scalar(_SAVE, {"id": run.id, **_numbers(run.totals), **arrays_of(findings)}):
        raise Rejected(409, "not_running", f"Run {run.id} was cancelled or abandoned.")


def arrays_of(findings: Sequence[Finding]) -> dict[str, list[object]]:
    """Return the parameters of INSERT_FINDINGS."""
    columns = zip(*(each.row() for each in findings), strict=True) if findings else ((),) * len(ARRAYS)
    return dict(zip(ARRAYS, map(list, columns), strict=True))


async def record_repair(conn: AsyncConnection, run_id: int, key: str, repair: str) -> None:
    """Record the repair of a finding."""
    await conn.execute(_REPAIRED, {"run": run_id, "key": key, "repair": repair})


async def end(
    conn: AsyncConnection, run_id: int, status: str, error_code: str | None = None, error: str | None = None
) -> bool:
    """End a run; False if it has already ended."""
    given = {"id": run_id, "status": status, "code": error_code, "error": error}
    return bool(await conn.scalar(_END, given))


async def cancel(conn: AsyncConnection, run_id: int) -> str | None:
    """Cancel a run, which stops at its next save; return its former status, None if it does not exist."""
    if await conn.scalar(_END, {"id": run_id, "status": "cancelled", "code": None, "error": None}):
        return "running"
    status: str | None = await conn.scalar(
        text("SELECT status FROM reconciliations WHERE id = :id"), {"id": run_id}
    )
    return status


async def trim(conn: AsyncConnection) -> None:
    """Delete some runs that are older than KEPT."""
    await conn.execute(_TRIM)


async def _begin(conn: AsyncConnection, given: dict[str, object]) -> Run | None:
    await conn.execute(_ABANDON)
    row = (await conn.execute(_BEGIN, given)).one_or_none()
    return Run(*row) if row else None


def _numbers(totals: Totals) -> dict[str, object]:
    names = ("emails", "documents", "objects", "bytes", "unfinished", "overdue", "not_synced")
    counts = {"counts": json.dumps(totals.counts), "repaired": json.dumps(totals.repaired)}
    return {**{name: getattr(totals, name) for name in names}, **counts}


_ABANDON = text("""
UPDATE reconciliations SET status = 'abandoned', finished_at = now(),
    error_code = 'not_heard_of', error = 'No progress for 5 minutes.'
WHERE kind = 'reconcile' AND status = 'running' AND seen_at < now() - :no_progress
""").bindparams(bindparam("no_progress", NO_PROGRESS, Interval()))
_BEGIN = text("""
INSERT INTO reconciliations (kind, actor, fix, since, part, targets)
VALUES ('reconcile', :actor, :fix, :since, :part, :targets)
ON CONFLICT (kind) WHERE status = 'running' DO NOTHING
RETURNING id, fix, since, part
""").bindparams(
    bindparam("since", type_=DateTime(timezone=True)),
    bindparam("part", type_=Integer()),
    bindparam("targets", type_=Text()),
)
_RECENT = text("""
SELECT id FROM reconciliations
WHERE id > (SELECT max(id) FROM reconciliations) - 100 AND part IS NOT NULL AND started_at > now() - :pause
    AND status IN ('running', 'done', 'failed')
LIMIT 1
""").bindparams(bindparam("pause", type_=Interval()))
_AGO = text("SELECT now() - :ago").bindparams(bindparam("ago", type_=Interval()))
# The part after the last finished one, so a failed or missed part is compared next.
_NEXT_PART = text(f"""
SELECT coalesce((
    SELECT (part + 1) % {PARTS} FROM reconciliations
    WHERE kind = 'reconcile' AND status = 'done' AND part IS NOT NULL ORDER BY id DESC LIMIT 1
), 0)
""")  # noqa: S608 a number of ours
_SAVE = text(f"""
WITH mine AS (
    UPDATE reconciliations SET seen_at = now(), emails = :emails, documents = :documents, objects = :objects,
        bytes = :bytes, unfinished = :unfinished, overdue = :overdue, not_synced = :not_synced,
        counts = CAST(:counts AS json), repaired = CAST(:repaired AS json)
    WHERE id = :id AND status = 'running' RETURNING id
), noted AS ({INSERT_FINDINGS})
SELECT id FROM mine
""").bindparams(  # noqa: S608 words of ours
    *(bindparam(name, type_=ARRAY(kind)) for name, kind in ARRAYS.items()),
    bindparam("counts", type_=Text()),
    bindparam("repaired", type_=Text()),
)
# Only the newest finding of a key can be without a repair.
_REPAIRED = text("""
UPDATE reconciliation_findings SET repair = :repair, repaired_at = now()
WHERE id = (
    SELECT id FROM reconciliation_findings WHERE reconciliation_id = :run AND key = :key ORDER BY id DESC LIMIT 1
)
""")
_END = text("""
UPDATE reconciliations SET status = :status, finished_at = now(), error_code = :code, error = :error
WHERE id = :id AND status = 'running' RETURNING id
""").bindparams(bindparam("code", type_=Text()), bindparam("error", type_=Text()))
_TRIM = text("""
DELETE FROM reconciliations WHERE id IN (
    SELECT id FROM reconciliations WHERE finished_at < now() - :kept ORDER BY id LIMIT :most
)
""").bindparams(bindparam("kept", KEPT, Interval()), bindparam("most", TRIM_BATCH, Integer()))
