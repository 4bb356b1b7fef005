"""Verify everything that the log covers, in steps: a verification that was stopped goes on where it was."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import JSON, BigInteger, DateTime, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import HoldfastError, Rejected, Transient
from service.evidence.findings import Report
from service.evidence.verify_heads import verify_heads
from service.evidence.verify_objects import verify_objects
from service.evidence.verify_rows import verify_acts, verify_emails
from service.evidence.verify_tree import verify_leaves, verify_placed
from service.postgres.engine import run as run_statement
from service.postgres.engine import transaction
from service.resources import Resources

# The longest step; a step hashes thousands of requests.
STEP_SECONDS = 60.0
# Longer than a step, which may read all heads from the storage. After a kill, another process repeats the last step, and goes on.
LEASE = timedelta(minutes=30)
# The pause of a worker between two looks whether a verification is due.
LOOK_SECONDS = 60.0
# Any fixed number.
_VERIFIER_LOCK = 4_710_027
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


@dataclass(slots=True)
class _Run:
    """A verification that this process has claimed; `lease_until` is its fencing token."""

    id: int
    with_objects: bool
    place: dict[str, Any]
    report: Report
    lease_until: datetime

    @property
    def fence(self) -> Mapping[str, Any]:
        return {"id": self.id, "lease_until": self.lease_until}


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
    run = await res.run(lambda conn: _claim(conn, with_objects=with_objects, again=again))
    return await _verify(res, run, watch)


async def verify_if_due(res: Resources) -> Verification | None:
    """Verify all but the bytes of files, at half the speed, if the last one is long ago and no other process does it.

    Raises as `verify` does.
    """
    hours = timedelta(hours=res.settings.evidence_verify_hours)
    run = await res.run(lambda conn: _claim_due(conn, hours))
    return None if run is None else await _verify(res, run, _ignore, rests=True)


async def verify_when_due(res: Resources) -> None:
    """Verify from time to time, until cancelled; a verification that was stopped is continued."""
    while res.settings.evidence_verify_hours:
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 no secret
        try:
            await verify_if_due(res)
        except HoldfastError as exc:
            log.warning("evidence_not_verified", code=exc.code)
    await asyncio.Event().wait()


async def newest(res: Resources) -> Verification | None:
    """Return the last verification that has ended."""
    row = await res.run(lambda conn: conn.execute(_NEWEST))
    found = row.one_or_none()
    return None if found is None else Verification(**found._mapping)  # noqa: SLF001 SQLAlchemy's public name


async def _verify(
    res: Resources, run: _Run, watch: Callable[[str, Report], None], *, rests: bool = False
) -> Verification:
    """Take the steps of a claimed verification; with `rests`, as much time passes between steps as in them."""
    place, report = run.place, run.report
    try:
        while place:
            watch(place["part"], report)
            began = time.monotonic()
            place = await _step(res, place, report, with_objects=run.with_objects)
            given = {"id": run.id, "place": place, "counts": report.counts, "findings": report.findings}
            await res.run(lambda conn, given=given: _save(conn, run, given))  # type: ignore[misc]
            await asyncio.sleep(time.monotonic() - began if rests and place else 0)
    except BaseException:
        with suppress(HoldfastError):  # otherwise the lease ends by itself
            await asyncio.shield(res.run(lambda conn: conn.execute(_HAND_BACK, run.fence)))
        raise
    log.info("evidence_verified", verification=run.id, findings=report.counts.get("findings", 0))
    found = await newest(res)
    assert found is not None  # noqa: S101 it was saved
    return found


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
        following = await run_statement(res.engine, STEP_SECONDS, lambda conn: work(conn, place, report))
    if following is not None:
        return {**following, "part": part}
    names = [*_PARTS]
    after = names.index(part) + 1
    return {"part": names[after]} if after < len(names) else {}


async def _claim(conn: AsyncConnection, *, with_objects: bool, again: bool = False) -> _Run:
    """Claim a verification that was stopped, or begin one."""
    given = {"objects": with_objects, "lease": LEASE}
    row = None if again else (await conn.execute(_OPEN, given)).one_or_none()
    if row is None:
        row = (await conn.execute(_BEGIN, {**given, "place": {"part": "leaves"}})).one()
    report = Report(dict(row.counts), list(row.findings))
    return _Run(row.id, row.with_objects, dict(row.place), report, row.lease_until)


async def _claim_due(conn: AsyncConnection, hours: timedelta) -> _Run | None:
    async with transaction(conn):
        # Two statements: the second one sees what the last owner of the lock committed.
        if not (await conn.scalar(_TRY_LOCK) and await conn.scalar(_IS_DUE, {"hours": hours})):
            return None
        return await _claim(conn, with_objects=False)


async def _save(conn: AsyncConnection, run: _Run, given: Mapping[str, Any]) -> None:
    """Save the progress; raises Transient if another process has the lease."""
    lease_until = await conn.scalar(_SAVE, {**given, **run.fence, "lease": LEASE})
    if lease_until is None:
        raise Transient("lease_lost", "Another process continues this verification.")
    run.lease_until = lease_until


def _ignore(_part: str, _report: Report) -> None:
    """Watch nothing."""


_HAS_BEGUN = text("SELECT EXISTS (SELECT FROM evidence_log)")
_LEASE = bindparam("lease", type_=Interval())
_CLAIMED = "id, with_objects, place, counts, findings, lease_until"
# An older one says too little about today.
_OPEN = text(f"""
UPDATE evidence_verifications SET lease_until = now() + :lease WHERE id = (
    SELECT id FROM evidence_verifications
    WHERE ended_at IS NULL AND with_objects = :objects AND began_at > now() - interval '1 day'
        AND coalesce(lease_until <= now(), true)
    ORDER BY id DESC LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING {_CLAIMED}
""").bindparams(_LEASE)  # noqa: S608 words of ours
_BEGIN = text(f"""
INSERT INTO evidence_verifications (with_objects, place, counts, findings, lease_until)
VALUES (:objects, :place, '{{}}', '[]', now() + :lease) RETURNING {_CLAIMED}
""").bindparams(_LEASE, bindparam("place", type_=JSON()))  # noqa: S608 words of ours
_TRY_LOCK = text(f"SELECT pg_try_advisory_xact_lock({_VERIFIER_LOCK})")
# While the log is younger than the pause, no verification is due.
_IS_DUE = text("""
SELECT EXISTS (SELECT FROM evidence_log WHERE began_at <= now() - :hours) AND NOT EXISTS (
    SELECT FROM evidence_verifications WHERE ended_at > now() - :hours OR (ended_at IS NULL AND lease_until > now())
)
""").bindparams(bindparam("hours", type_=Interval()))
_MINE = "id = :id AND lease_until = :lease_until AND ended_at IS NULL"
_FENCE = (bindparam("id", type_=BigInteger()), bindparam("lease_until", type_=DateTime(timezone=True)))
_SAVE = text(f"""
UPDATE evidence_verifications SET place = :place, counts = :counts, findings = :findings, lease_until = now() + :lease,
    ended_at = CASE WHEN CAST(:place AS text) = '{{}}' THEN now() END
WHERE {_MINE} RETURNING lease_until
""").bindparams(  # noqa: S608 words of ours
    *_FENCE, _LEASE, *(bindparam(name, type_=JSON()) for name in ("place", "counts", "findings"))
)
_HAND_BACK = text(f"UPDATE evidence_verifications SET lease_until = now() WHERE {_MINE}").bindparams(*_FENCE)  # noqa: S608 words of ours
_NEWEST = text("""
SELECT id, began_at, ended_at, with_objects, counts, findings FROM evidence_verifications
WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1
""")
