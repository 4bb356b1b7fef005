"""A verification in steps: whoever takes one has it for a while, and moves the place on if nobody else did."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, DateTime, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.reconcile import record
from service.reconcile.differences import MOST_KEPT
from service.reconcile.finding import Finding


class GivenOn(Exception):
    """Somebody else has the step by now, or it was cancelled."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that is ours, for a while."""

    id: int
    fix: str
    place: str
    rate: int
    counts: Mapping[str, int]
    repaired: Mapping[str, int]
    error_code: str | None = None  # why it was put off, if it was


@dataclass(slots=True)
class Step:
    """What came of a step; no place means that there was no more."""

    place: str | None
    objects: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    noted: list[Finding] = field(default_factory=list)  # are on record, but not yet what was done about them
    keys: list[str] = field(default_factory=list)  # of the objects


async def begin(conn: AsyncConnection, given: Mapping[str, object]) -> int | None:
    """Begin a verification; None if there is one."""
    run_id: int | None = await conn.scalar(_BEGIN, given)
    return run_id


async def take(conn: AsyncConnection, patience: timedelta) -> Taken | None:
    """Take the next step, if it is due."""
    row = (await conn.execute(_TAKE, {"patience": patience})).one_or_none()
    return Taken(*row) if row else None


async def keep(conn: AsyncConnection, taken: Taken, patience: timedelta) -> bool:
    """Keep a step for longer; False if it is somebody else's, or was cancelled."""
    return bool(await conn.scalar(_KEEP, {"id": taken.id, "place": taken.place, "patience": patience}))


async def put_off(conn: AsyncConnection, taken: Taken, pause: timedelta, why: tuple[str, str]) -> None:
    """Give a step back for a while, and note code and message of what kept us."""
    code, error = why
    given = {"id": taken.id, "place": taken.place, "pause": pause, "code": code, "error": error}
    await conn.execute(_PUT_OFF, given)


async def note(conn: AsyncConnection, taken: Taken, finding: Finding) -> None:
    """Put on record, once, what has to be there before something is removed; it is counted when the step is over.

    Raises GivenOn.
    """
    kind, email_id, key, detail, _ = finding.values()
    given = {
        "id": taken.id,
        "place": taken.place,
        "kind": kind,
        "email": email_id,
        "key": key,
        "detail": detail,
    }
    if not await conn.scalar(_NOTE, given):
        raise GivenOn


async def noted(conn: AsyncConnection, taken: Taken, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Give the details of what was noted of these, and not put right: whoever took the step before died, or could not."""
    rows = await conn.execute(_NOTED, {"id": taken.id, "keys": list(keys)})
    return {row.key: row.detail for row in rows}


async def told_of(conn: AsyncConnection, taken: Taken, keys: Sequence[str]) -> set[str]:
    """Return those of these keys that an earlier step told of: a content that many files have comes again."""
    return set(await conn.scalars(_TOLD_OF, {"id": taken.id, "keys": list(keys)}))


async def move(conn: AsyncConnection, taken: Taken, step: Step) -> bool:
    """Note what a step found and where it ended; False if somebody else did."""
    found = [*step.findings, *step.noted]
    counts = Counter(taken.counts) + Counter(each.kind for each in found)
    repaired = Counter(taken.repaired) + Counter(each.kind for each in found if each.repair)
    kept = step.findings[: max(0, MOST_KEPT - sum(taken.counts.values()))]
    known = [each.values()[2:] for each in step.noted]
    names = ("known_keys", "known_details", "known_repairs")
    columns = dict(zip(names, map(list, zip(*known, strict=True) if known else ((),) * 3), strict=True))
    given = {
        "id": taken.id,
        "place": taken.place,
        "next": taken.place if step.place is None else step.place,
        "objects": step.objects,
        "bytes": step.bytes,
        "counts": json.dumps(counts),
        "repaired": json.dumps(repaired),
    }
    return bool(await conn.scalar(_MOVE, {**given, **record.arrays_of(kept), **columns}))


_BEGIN = text("""
INSERT INTO reconciliations (kind, actor, fix, since, place, megabytes_per_second)
VALUES ('verify', :actor, :fix, :since, :place, :rate)
ON CONFLICT (kind) WHERE status = 'running' DO NOTHING
RETURNING id
""").bindparams(bindparam("since", type_=DateTime(timezone=True)))
_TAKE = text("""
UPDATE reconciliations SET next_at = now() + :patience, seen_at = now()
WHERE id = (
    SELECT id FROM reconciliations
    WHERE status = 'running' AND kind = 'verify' AND next_at <= now() LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, fix, place, megabytes_per_second, counts, repaired, error_code
""").bindparams(bindparam("patience", type_=Interval()))
_MINE = "id = :id AND status = 'running' AND place = :place"
_KEEP = text(f"""
UPDATE reconciliations SET next_at = now() + :patience, seen_at = now() WHERE {_MINE} RETURNING id
""").bindparams(bindparam("patience", type_=Interval()))  # noqa: S608 words of ours
_PUT_OFF = text(f"""
UPDATE reconciliations SET next_at = now() + :pause, error_code = :code, error = :error WHERE {_MINE}
""").bindparams(bindparam("pause", type_=Interval()))  # noqa: S608 words of ours
# Beside another who has taken the same step it may be noted twice, which says the same.
_NOTE = text(f"""
WITH mine AS (
    SELECT id FROM reconciliations WHERE {_MINE} FOR UPDATE
), noted AS (
    INSERT INTO reconciliation_findings (reconciliation_id, kind, email_id, key, detail)
    SELECT mine.id, :kind, :email, :key, CAST(:detail AS json) FROM mine
    WHERE NOT EXISTS (
        SELECT FROM reconciliation_findings
        WHERE reconciliation_id = mine.id AND kind = :kind AND key = :key AND repair IS NULL
    )
)
SELECT id FROM mine
""").bindparams(  # noqa: S608 words of ours
    bindparam("kind", type_=Text()),
    bindparam("email", type_=BigInteger()),
    bindparam("key", type_=Text()),
    bindparam("detail", type_=Text()),
)
_NOTED = text("""
SELECT key, detail FROM reconciliation_findings
WHERE reconciliation_id = :id AND key = ANY(:keys) AND detail ->> 'kept_as' IS NOT NULL AND repair IS NULL
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
_TOLD_OF = text("""
SELECT key FROM reconciliation_findings
WHERE reconciliation_id = :id AND key = ANY(:keys) AND (detail ->> 'kept_as' IS NULL OR repair IS NOT NULL)
""").bindparams(bindparam("keys", type_=ARRAY(Text)))
_MOVE = text(f"""
WITH mine AS (
    UPDATE reconciliations SET place = :next, objects = objects + :objects, bytes = bytes + :bytes,
        counts = CAST(:counts AS json), repaired = CAST(:repaired AS json), next_at = now(), seen_at = now(),
        error_code = NULL, error = NULL
    WHERE {_MINE} RETURNING id
), noted AS ({record.NOTED}), known AS (
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
