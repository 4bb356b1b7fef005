"""Verify everything that the log covers, in steps: a verification that was stopped goes on where it was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import JSON, BigInteger, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.evidence.findings import Report
from service.evidence.verify_heads import verify_heads
from service.evidence.verify_objects import verify_objects
from service.evidence.verify_rows import verify_acts, verify_emails
from service.evidence.verify_tree import verify_leaves, verify_placed
from service.postgres.engine import run
from service.resources import Resources

# The longest step; a step hashes thousands of requests.
STEP_SECONDS = 60.0
# The parts in order, and what each of them asks Postgres.
_PARTS = {
    "leaves": verify_leaves,
    "placed": verify_placed,
    "heads": None,
    "emails": verify_emails,
    "acts": verify_acts,
    "objects": None,
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification that has ended; without findings, everything is as it was logged."""

    id: int
    began_at: datetime
    ended_at: datetime | None
    with_objects: bool
    counts: Mapping[str, int]
    findings: list[Mapping[str, Any]]

    @property
    def is_good(self) -> bool:
        return not self.counts.get("findings", 0)


async def verify(
    res: Resources,
    *,
    with_objects: bool = True,
    again: bool = False,
    watch: Callable[[str, Report], None] = lambda _part, _report: None,
) -> Verification:
    """Verify all that is on record; go on with one that was stopped, unless `again`.

    Raises Rejected (409) where the log has not begun, and Transient where Postgres or the storage is away.
    """
    if not await res.run(lambda conn: conn.scalar(_HAS_BEGUN)):
        raise Rejected(409, "evidence_not_begun", "The evidence log has not begun: start a worker.")
    state = None if again else await res.run(lambda conn: _open(conn, with_objects=with_objects))
    if state is None:
        place: dict[str, Any] = {"part": "leaves"}
        number = int(
            await res.run(lambda conn: conn.scalar(_BEGIN, {"objects": with_objects, "place": place}))
        )
        report = Report()
    else:
        number, place, report = state.id, dict(state.place), Report(dict(state.counts), list(state.findings))
    while place:
        watch(place["part"], report)
        place = await _step(res, place, report, with_objects=with_objects)
        given = {"id": number, "place": place, "counts": report.counts, "findings": report.findings}
        await res.run(lambda conn, given=given: conn.execute(_SAVE, given))  # type: ignore[misc]
    log.info("evidence_verified", verification=number, findings=report.counts.get("findings", 0))
    found = await newest(res)
    assert found is not None  # noqa: S101 it was saved
    return found


async def newest(res: Resources) -> Verification | None:
    """Return the last verification that has ended."""
    row = await res.run(lambda conn: conn.execute(_NEWEST))
    found = row.one_or_none()
    return None if found is None else Verification(**found._mapping)  # noqa: SLF001 SQLAlchemy's public name


async def _step(
    res: Resources, place: Mapping[str, Any], report: Report, *, with_objects: bool
) -> dict[str, Any]:
    """Take one step of a part; return the place to go on at, empty at the end."""
    part = place["part"]
    if part == "heads":
        await verify_heads(res, report)
        following = None
    elif part == "objects":
        following = await verify_objects(res, place, report) if with_objects else None
    else:
        work = _PARTS[part]
        assert work is not None  # noqa: S101 the others are above
        following = await run(res.engine, STEP_SECONDS, lambda conn: work(conn, place, report))
    if following is not None:
        return {**following, "part": part}
    names = [*_PARTS]
    after = names.index(part) + 1
    return {"part": names[after]} if after < len(names) else {}


async def _open(conn: AsyncConnection, *, with_objects: bool) -> Any:  # noqa: ANN401 a row
    return (await conn.execute(_OPEN, {"objects": with_objects})).one_or_none()


_HAS_BEGUN = text("SELECT EXISTS (SELECT FROM evidence_log)")
# An older one says too little about today.
_OPEN = text("""
SELECT id, place, counts, findings FROM evidence_verifications
WHERE ended_at IS NULL AND with_objects = :objects AND began_at > now() - interval '1 day' ORDER BY id DESC LIMIT 1
""")
_BEGIN = text("""
INSERT INTO evidence_verifications (with_objects, place, counts, findings) VALUES (:objects, :place, '{}', '[]')
RETURNING id
""").bindparams(bindparam("place", type_=JSON()))
_SAVE = text("""
UPDATE evidence_verifications SET place = :place, counts = :counts, findings = :findings,
    ended_at = CASE WHEN CAST(:place AS text) = '{}' THEN now() END
WHERE id = :id
""").bindparams(
    bindparam("id", type_=BigInteger()),
    *(bindparam(name, type_=JSON()) for name in ("place", "counts", "findings")),
)
_NEWEST = text("""
SELECT id, began_at, ended_at, with_objects, counts, findings FROM evidence_verifications
WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1
""")
