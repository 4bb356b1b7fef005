"""The steps of a verification: a worker claims one for a lease, and moves the place on if its lease lasted."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, DateTime, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.loose_objects import forget_notes
from service.jobs.object_references import Proofs, lock_objects
from service.postgres.engine import transaction
from service.reconcile import record
from service.reconcile.finding import MAX_FINDINGS, Finding
from service.storage.objects import StoredObject


class LeaseLost(Exception):
    """Another worker has claimed the step, or the verification was cancelled."""


@dataclass(frozen=True, slots=True)
class StepClaim:
    """A claimed step; `place` is the fencing token."""

    id: int
    fix: str
    place: str
    rate: int
    counts: Mapping[str, int]
    repaired: Mapping[str, int]
    error_code: str | None = None  # the error of the last postponement


@dataclass(slots=True)
class StepResult:
    """The result of a step; `place` is None at the end."""

    place: str | None
    objects: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    recorded: list[Finding] = field(default_factory=list)  # saved already, without their repairs
    keys: list[str] = field(default_factory=list)  # of the objects that were read


async def begin(conn: AsyncConnection, given: Mapping[str, object]) -> int | None:
    """Begin a verification; None if one is running."""
    run_id: int | None = await conn.scalar(_BEGIN, given)
    return run_id


async def claim_step(conn: AsyncConnection, lease: timedelta) -> StepClaim | None:
    """Claim the next step if it is due."""
    row = (await conn.execute(_CLAIM, {"lease": lease})).one_or_none()
    return StepClaim(*row) if row else None


async def renew(conn: AsyncConnection, claim: StepClaim, lease: timedelta) -> bool:
    """Renew the lease of a step; False if the lease was lost or the verification cancelled."""
    return bool(await conn.scalar(_RENEW, {"id": claim.id, "place": claim.place, "lease": lease}))


async def postpone(
    conn: AsyncConnection, claim: StepClaim, pause: timedelta, reason: tuple[str, str]
) -> None:
    """Postpone a step, and record the code and message of the error."""
    code, error = reason
    given = {"id": claim.id, "place": claim.place, "pause": pause, "code": code, "error": error}
    await conn.execute(_POSTPONE, given)


async def record_copy(
    conn: AsyncConnection, claim: StepClaim, finding: Finding, kept: StoredObject, proofs: Proofs
) -> None:
    """Save a finding that names the copy of a damaged object, before that object is removed.

    It is counted at the end of the step. Raises LeaseLost, also if the e-mail was erased meanwhile, and ObjectRemoved as
    `lock_objects` does.
    """
    kind, email_id, key, detail, _ = finding.row()
    given = {
        "id": claim.id,
        "place": claim.place,
        "kind": kind,
        "ids": [email_id],
        "key": key,
        "detail": detail,
    }
    async with transaction(conn):
        await lock_objects(conn, [kept.key], proofs)
        if not await conn.scalar(_RECORD, given):
            raise LeaseLost
        await forget_notes(conn, [kept])


async def recorded_details(
    conn: AsyncConnection, claim: StepClaim, keys: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Return the details of saved findings without a repair, left by a worker that died in this step or failed."""
    rows = await conn.execute(_RECORDED, {"id": claim.id, "keys": list(keys)})
    return {row.key: row.detail for row in rows}


async def reported_keys(conn: AsyncConnection, claim: StepClaim, keys: Sequence[str]) -> set[str]:
    """Return the keys that earlier steps reported: a content that several files share occurs again."""
    return set(await conn.scalars(_REPORTED, {"id": claim.id, "keys": list(keys)}))


async def finish(conn: AsyncConnection, claim: StepClaim, step: StepResult) -> bool:
    """Save the findings and the new place of a step; False if another worker did."""
    found = [*step.findings, *step.recorded]
    counts = Counter(claim.counts) + Counter(each.kind for each in found)
    repaired = Counter(claim.repaired) + Counter(each.kind for each in found if each.repair)
    kept = step.findings[: max(0, MAX_FINDINGS - sum(claim.counts.values()))]
    known = [each.row()[2:] for each in step.recorded]
    names = ("known_keys", "known_details", "known_repairs")
    columns = dict(zip(names, map(list, zip(*known, strict=True) if known else ((),) * 3), strict=True))
    given = {
        "id": claim.id,
        "place": claim.place,
        "next": claim.place if step.place is None else step.place,
        "objects": step.objects,
        "bytes": step.bytes,
        "counts": json.dumps(counts),
        "repaired": json.dumps(repaired),
    }
    return bool(await conn.scalar(_FINISH, {**given, **record.arrays_of(kept), **columns}))


_BEGIN = text("""
INSERT INTO reconciliations (kind, actor, fix, since, place, megabytes_per_second)
VALUES ('verify', :actor, :fix, :since, :place, :rate)
ON CONFLICT (kind) WHERE status = 'running' DO NOTHING
RETURNING id
""").bindparams(bindparam("since", type_=DateTime(timezone=True)))
_CLAIM = text("""
UPDATE reconciliations SET next_at = now() + :lease, seen_at = now()
WHERE id = (
    SELECT id FROM reconciliations
    WHERE status = 'running' AND kind = 'verify' AND next_at <= now() LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, fix, place, megabytes_per_second, counts, repaired, error_code
""").bindparams(bindparam("lease", type_=Interval()))
_MINE = "id = :id AND status = 'running' AND place = :place"
_RENEW = text(f"""
UPDATE reconciliations SET next_at = now() + :lease, seen_at = now() WHERE {_MINE} RETURNING id
""").bindparams(bindparam("lease", type_=Interval()))  # noqa: S608 words of ours
_POSTPONE = text(f"""
UPDATE reconciliations SET next_at = now() + :pause, error_code = :code, error = :error WHERE {_MINE}
""").bindparams(bindparam("pause", type_=Interval()))  # noqa: S608 words of ours
# Two workers in the same step may both insert the finding, which is harmless.
_RECORD = text(f"""
WITH present AS ({record.PRESENT}), mine AS (
    SELECT id FROM reconciliations WHERE {_MINE} AND EXISTS (SELECT FROM present) FOR UPDATE
), noted AS (
    INSERT INTO reconciliation_findings (reconciliation_id, kind, email_id, key, detail)
    SELECT mine.id, :kind, present.id, :key, CAST(:detail AS json) FROM mine CROSS JOIN present
    WHERE NOT EXISTS (
        SELECT FROM reconciliation_findings
        WHERE reconciliation_id = mine.id AND kind = :kind AND key = :key AND repair IS NULL
    )
)
SELECT id FROM mine
""").bindparams(  # noqa: S608 words of ours
    bindparam("kind", type_=Text()),
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("key", type_=Text()),
    bindparam("detail", type_=Text()),
)
_RECORDED = text("""
SELECT key, detail FROM reconciliation_findings
WHERE reconciliation_id = :id AND key = ANY(:keys) AND detail ->> 'kept_as' IS NOT NULL AND repair IS NULL
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
_REPORTED = text("""
SELECT key FROM reconciliation_findings
WHERE reconciliation_id = :id AND key = ANY(:keys) AND (detail ->> 'kept_as' IS NULL OR repair IS NOT NULL)
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
_FINISH = text(f"""
WITH mine AS (
    UPDATE reconciliations SET place = :next, objects = objects + :objects, bytes = bytes + :bytes,
        counts = CAST(:counts AS json), repaired = CAST(:repaired AS json), next_at = now(), seen_at = now(),
        error_code = NULL, error = NULL
    WHERE {_MINE} RETURNING id
), noted AS ({record.INSERT_FINDINGS}), known AS (
    UPDATE reconciliation_findings AS finding SET detail = CAST(found.detail AS json), repair = found.repair,
        repaired_at = CASE WHEN found.repair IS NOT NULL THEN now() END
    FROM mine, unnest(:known_keys, :known_details, :known_repairs) AS found (key, detail, repair)
    WHERE finding.reconciliation_id = mine.id AND finding.key = found.key
        AND finding.detail ->> 'kept_as' IS NOT NULL AND finding.repair IS NULL
)
SELECT id FROM mine
""").bindparams(  # noqa: S608 words of ours
    *(bindparam(name, type_=ARRAY(kind)) for name, kind in record.ARRAYS.items()),
    *(bindparam(name, type_=ARRAY(Text)) for name in ("known_keys", "known_details", "known_repairs")),
    bindparam("counts", type_=Text()),
    bindparam("repaired", type_=Text()),
    bindparam("objects", type_=BigInteger()),
    bindparam("bytes", type_=BigInteger()),
)
