"""A verification in steps: whoever takes one has it for a while, and moves the place on if nobody else did."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import BigInteger, DateTime, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.reconcile.finding import MOST_KEPT, Finding


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that is ours, for a while."""

    id: int
    fix: str
    place: str
    rate: int
    counts: Mapping[str, int]
    repaired: Mapping[str, int]


@dataclass(slots=True)
class Step:
    """What came of a step; no place means that there was no more."""

    place: str | None
    objects: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


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


async def move(conn: AsyncConnection, taken: Taken, step: Step) -> bool:
    """Note what a step found and where it ended; False if somebody else did."""
    counts = Counter(taken.counts) + Counter(each.kind for each in step.findings)
    repaired = Counter(taken.repaired) + Counter(each.kind for each in step.findings if each.repair)
    kept = step.findings[: max(0, MOST_KEPT - sum(taken.counts.values()))]
    columns = zip(*(each.values() for each in kept), strict=True) if kept else ((),) * 5
    arrays = dict(zip(("kinds", "ids", "keys", "details", "repairs"), map(list, columns), strict=True))
    given = {
        "id": taken.id,
        "place": taken.place,
        "next": taken.place if step.place is None else step.place,
        "objects": step.objects,
        "bytes": step.bytes,
        "counts": json.dumps(counts),
        "repaired": json.dumps(repaired),
    }
    return bool(await conn.scalar(_MOVE, {**given, **arrays}))


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
RETURNING id, fix, place, megabytes_per_second, counts, repaired
""").bindparams(bindparam("patience", type_=Interval()))
_MINE = "id = :id AND status = 'running' AND place = :place"
_KEEP = text(f"""
UPDATE reconciliations SET next_at = now() + :patience, seen_at = now() WHERE {_MINE} RETURNING id
""").bindparams(bindparam("patience", type_=Interval()))  # noqa: S608 words of ours
_PUT_OFF = text(f"""
UPDATE reconciliations SET next_at = now() + :pause, error_code = :code, error = :error WHERE {_MINE}
""").bindparams(bindparam("pause", type_=Interval()))  # noqa: S608 words of ours
_MOVE = text(f"""
WITH mine AS (
    UPDATE reconciliations SET place = :next, objects = objects + :objects, bytes = bytes + :bytes,
        counts = CAST(:counts AS json), repaired = CAST(:repaired AS json), next_at = now(), seen_at = now(),
        error_code = NULL, error = NULL
    WHERE {_MINE} RETURNING id
), noted AS (
    INSERT INTO reconciliation_findings (reconciliation_id, kind, email_id, key, detail, repair, repaired_at)
    SELECT mine.id, kind, email_id, key, CAST(detail AS json), repair, CASE WHEN repair IS NOT NULL THEN now() END
    FROM mine, unnest(:kinds, :ids, :keys, :details, :repairs) AS found (kind, email_id, key, detail, repair)
    RETURNING id
)
SELECT id FROM mine
""").bindparams(  # noqa: S608 words of ours
    bindparam("kinds", type_=ARRAY(Text)),
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("keys", type_=ARRAY(Text)),
    bindparam("details", type_=ARRAY(Text)),
    bindparam("repairs", type_=ARRAY(Text)),
    bindparam("counts", type_=Text()),
    bindparam("repaired", type_=Text()),
    bindparam("objects", type_=BigInteger()),
    bindparam("bytes", type_=BigInteger()),
)
