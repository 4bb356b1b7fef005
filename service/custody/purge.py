"""Purge: remove the e-mails that retention rules make due, in batches, by one process at a time."""

import asyncio
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from sqlalchemy import JSON, BigInteger, Integer, Interval, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import receipts
from service.custody.removal import remove
from service.custody.retention import Due, due_and_held, lock_due
from service.errors import HoldfastError, Permanent, Transient
from service.faultpoints import reach
from service.postgres.engine import connect, transaction
from service.postgres.rows import in_batches
from service.resources import Resources
from service.telemetry.metrics import EMAILS_REMOVED

# E-mails of one transaction, and the due ones that one look returns.
BATCH = 1_000
LOOK = 5_000
# By then a process that removes nothing has died, and another one continues.
LEASE = timedelta(minutes=2)
# The pause after a run, or after a look that found nothing due.
PAUSE_SECONDS = 900.0
# A look may read every e-mail on record: it rests for so many times as long as it took.
REST = 50.0
# The pause after an error, such as an outage of Postgres.
RETRY_SECONDS = 30.0
BY_RULE = "retention rules"

log = structlog.get_logger()


@dataclass(slots=True)
class Run:
    """A purge that this process has claimed: its receipt, the fencing token, and how far it is."""

    receipt_id: int
    lease_number: int
    place: int
    rules: Counter[str] = field(default_factory=Counter)
    held: Sequence[int] = ()  # e-mails that holds keep, in order, which the receipt has not counted yet

    @property
    def emails(self) -> int:
        return self.rules.total()


async def purge_for_ever(res: Resources) -> None:
    """Purge due e-mails, at the start and from time to time, until cancelled."""
    while True:
        pause, began = PAUSE_SECONDS, time.monotonic()
        try:
            if await purge(res, BY_RULE) is None:
                pause = max(pause, REST * (time.monotonic() - began))
            await receipts.forget_lists(res)
        except HoldfastError as exc:
            log.warning("purge_stopped", code=exc.code, error=exc.message)
            pause = RETRY_SECONDS
        await asyncio.sleep(pause)


async def purge(res: Resources, actor: str) -> int | None:
    """Remove all that is due, with one receipt; return it, or None where nothing is due or another process does it.

    A run that was killed is continued, with its receipt. Raises Transient where Postgres is away, or where the run lost its
    lease, and Permanent for rules that cannot be read.
    """
    run = await _begin(res, actor)
    if run is None:
        return None
    try:
        while True:
            found, held = await _due(res, run.place, LOOK)
            # Those before an e-mail that Postgres does not let go are still to be counted.
            run.held = [*run.held[: bisect_right(run.held, run.place)], *held]
            if not found:
                break
            for batch in in_batches(found, min(BATCH, res.settings.purge_per_second)):
                began = time.monotonic()
                await _remove(res, run, batch)
                # Intake and attempts share Postgres with the purge.
                rest = len(batch) / res.settings.purge_per_second - (time.monotonic() - began)
                await asyncio.sleep(max(0.0, rest))
        if run.held:
            await res.run(lambda conn: _save_progress(conn, run, run.held[-1], run.rules))
    except BaseException:
        with suppress(HoldfastError):  # otherwise the lease ends by itself
            await asyncio.shield(res.run(lambda conn: conn.execute(_HAND_BACK, _fence(run))))
        raise
    await receipts.finish(res, run.receipt_id)
    log.info("purged", receipt=run.receipt_id, emails=run.emails)
    return run.receipt_id


async def _begin(res: Resources, actor: str) -> Run | None:
    """Continue a run that nobody has claimed, or begin one if something is due."""
    run = await res.run(_take)
    if run is not None or not (await _due(res, 0, 1))[0]:
        return run
    with suppress(Permanent):  # another process has begun one
        await res.run(lambda conn: receipts.begin(conn, "purge", actor))
    return await res.run(_take)


async def _take(conn: AsyncConnection) -> Run | None:
    row = (await conn.execute(_TAKE, {"lease": LEASE})).one_or_none()
    return None if row is None else Run(row.id, row.lease_number, row.place, Counter(row.rules or {}))


async def _due(res: Resources, place: int, most: int) -> tuple[Sequence[Due], Sequence[int]]:
    """Return the next e-mails that are due, and held ones; this may read many rows, in short statements."""
    async with connect(res.engine) as conn:
        return await due_and_held(conn, place, most, floor_days=res.settings.retention_floor_days)


async def _remove(res: Resources, run: Run, batch: Sequence[Due]) -> None:
    """Remove a batch; an e-mail that Postgres does not let go is left out, and the others are removed."""
    try:
        async with connect(res.engine) as conn, transaction(conn):
            removed = await _remove_batch(res, conn, run, batch)
    except Permanent as exc:
        if len(batch) > 1:
            middle = len(batch) // 2
            await _remove(res, run, batch[:middle])
            await _remove(res, run, batch[middle:])
            return
        log.warning("email_not_removed", email=batch[0].email_id, code=exc.code)
        run.place = batch[0].email_id
        return
    run.place = batch[-1].email_id
    run.held = run.held[bisect_right(run.held, run.place) :]
    run.rules += removed
    EMAILS_REMOVED.labels("purge").inc(removed.total())
    reach(res.settings.fault_points, "after_purge_batch")


async def _remove_batch(
    res: Resources, conn: AsyncConnection, run: Run, batch: Sequence[Due]
) -> Counter[str]:
    """Remove the e-mails that are still due; return the e-mails by rule. Raises Transient if another process has the lease."""
    floor_days = res.settings.retention_floor_days
    locked = await lock_due(conn, [each.email_id for each in batch], floor_days=floor_days)
    gone = await remove(conn, [each.email_id for each in locked], run.receipt_id)
    removed = {each.email_id for each in gone}
    counts = Counter(each.rule for each in locked if each.email_id in removed)
    # The last statement, in the order of locks of those that remove objects.
    await _save_progress(conn, run, batch[-1].email_id, run.rules + counts)
    return counts


async def _save_progress(conn: AsyncConnection, run: Run, place: int, rules: Counter[str]) -> None:
    """Save how far a run is, and count the held e-mails up to there; raises Transient if another process has the lease."""
    held = bisect_right(run.held, place)
    progress = {"place": place, "rules": dict(rules), "held": held, "lease": LEASE}
    if await conn.scalar(_PROGRESS, {**_fence(run), **progress}) is None:
        raise Transient("lease_lost", "Another process continues this purge.")


def _fence(run: Run) -> dict[str, int]:
    return {"id": run.receipt_id, "number": run.lease_number}


_MINE = "id = :id AND lease_number = :number AND status = 'running'"
_TYPES = (bindparam("id", type_=BigInteger()), bindparam("number", type_=Integer()))
_LEASE = bindparam("lease", type_=Interval())
_TAKE = text("""
UPDATE receipts SET lease_until = now() + :lease, lease_number = lease_number + 1
WHERE id = (
    SELECT id FROM receipts WHERE kind = 'purge' AND status = 'running' AND lease_until <= now()
    FOR UPDATE SKIP LOCKED
)
RETURNING id, lease_number, place, rules
""").bindparams(_LEASE)
_PROGRESS = text(f"""
UPDATE receipts SET place = :place, rules = :rules, held = held + :held, lease_until = now() + :lease WHERE {_MINE} RETURNING id
""").bindparams(*_TYPES, _LEASE, bindparam("place", type_=BigInteger()), bindparam("rules", type_=JSON()))  # noqa: S608 constants of ours
_HAND_BACK = text(f"UPDATE receipts SET lease_until = now() WHERE {_MINE}").bindparams(*_TYPES)  # noqa: S608 constants of ours
