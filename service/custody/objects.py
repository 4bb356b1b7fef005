"""Remove the objects that nobody names any more, without ever removing one that somebody is about to name.

`custody/removal` requests each object that a removed e-mail named, and `jobs/loose_objects` each object that was stored
without a reference, or lost its last one. A put that finds its object does not write it, so a
transaction may be about to name an object at the same moment. These steps make sure that none does:

1. A request gets its barrier: the transactions that run after its commit. Those may not know of the request.
2. Once they have ended, every transaction that names the object locks the request first (`jobs/object_references`).
3. The remover locks the request, and then looks whether a row names the object. If so, the request is dropped. If not,
   the request is `removing`: from now on no reference is written.
4. The object is removed, and the request is `removed`: a reference needs a proof that the object was put again.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import BigInteger, Integer, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody import receipts
from service.errors import Permanent, Transient
from service.faultpoints import reach
from service.jobs.loose_objects import request_removals
from service.postgres.contents import known_contents
from service.postgres.engine import connect, transaction
from service.resources import Resources, repeat_steps
from service.storage import objects
from service.storage.spool import hash_of, object_key
from service.telemetry.metrics import OBJECTS_REMOVED

# Requests of one step.
BATCH = 500
CONCURRENT_REQUESTS = 16
# While an older transaction runs, a request is looked at again after this time.
BLOCKED = timedelta(seconds=2)
# A removal that was begun and not noted is repeated after this time: by then no request to the storage is under way.
LEASE = timedelta(minutes=2)
# The storage may unlock an object: a locked one is asked for again after this time.
LOCKED = timedelta(days=1)
# By then, every attempt has ended that had put the object before its removal.
FORGET_AFTER = timedelta(days=7)
SOON_SECONDS, IDLE_SECONDS = 0.05, 5.0
# Any fixed number. Whoever removes objects has this advisory lock alone.
_REMOVER_LOCK = 4_710_026

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Removal:
    """An object that is being removed; `number` is that of the request."""

    key: str
    number: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The end of a removal: removed, locked, or still removing after an error of the storage."""

    removal: _Removal
    state: str
    reason: str | None = None
    again_in: timedelta = timedelta(0)


async def request(conn: AsyncConnection, receipt_id: int, hashes: Collection[str]) -> None:
    """Request the removal of contents, and list them in the receipt; objects that a row names stay.

    Each is requested, whether or not a row still names it: a concurrent removal may delete that row.
    """
    if hashes:
        await receipts.add_entries(conn, receipt_id, {f"sha256 {sha256}" for sha256 in hashes})
        # In the order of keys, as all statements that lock these rows.
        keys = sorted(map(object_key, {*hashes}))
        await conn.execute(_REQUEST, {"receipt_id": receipt_id, "keys": keys})


async def remove_for_ever(res: Resources) -> None:
    """Remove requested objects, until cancelled; one process of all does so at a time."""
    await repeat_steps(lambda: step(res), soon=SOON_SECONDS, idle=IDLE_SECONDS, event="objects_not_removed")


async def step(res: Resources) -> bool:
    """Remove some objects; return whether more may be due now.

    A transaction stays open meanwhile, with the lock of the remover: a process that hangs in the middle of a removal
    keeps it, and no other one removes the same object twice, at a time when it may have been put again. A process with a
    single connection has no other one for that, and relies on the lease alone.
    """
    requested = await res.run(lambda conn: request_removals(conn, BATCH))
    # Before the transaction of this step, which would be one of those that a request waits for.
    stamped = await res.run(_stamp)
    async with AsyncExitStack() as stack:
        if res.settings.database_pool_size > 1 and not await _lock(res, stack):
            return False
        removals = await res.run(_claim)
        outcomes = await _remove_all(res, removals)
        if outcomes:
            await res.insist(lambda own: _settle(own, outcomes))
    await res.run(_forget)
    return bool(requested or stamped or outcomes)


async def _lock(res: Resources, stack: AsyncExitStack) -> bool:
    """Take the lock of the remover until the stack is closed; return False if another process has it."""
    conn = await stack.enter_async_context(connect(res.engine))
    await stack.enter_async_context(transaction(conn))
    return bool(await conn.scalar(_TRY_LOCK))


async def _stamp(conn: AsyncConnection) -> int:
    """Give new requests their barrier; return how many there were."""
    return (await conn.execute(_STAMP, {"limit": BATCH})).rowcount


async def _claim(conn: AsyncConnection) -> list[_Removal]:
    """Take due requests whose barrier is gone; drop those of objects that a row names."""
    async with transaction(conn):
        due = (await conn.execute(_LOCK_DUE, {"limit": BATCH, "blocked": BLOCKED})).all()
        keys = [row.key for row in due if row.is_free]
        # A statement of its own: it sees the rows of every transaction that had locked a request before.
        known = await known_contents(conn, [hash_of(key) for key in keys]) if keys else set()
        await conn.execute(_DROP, {"keys": [key for key in keys if hash_of(key) in known]})
        unnamed = [key for key in keys if hash_of(key) not in known]
        rows = await conn.execute(_BEGIN, {"keys": unnamed, "lease": LEASE})
        return [_Removal(*row) for row in rows]


async def _remove_all(res: Resources, removals: Sequence[_Removal]) -> list[_Outcome]:
    slots = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def one(removal: _Removal) -> _Outcome:
        async with slots:
            return await _remove(res, removal)

    return list(await asyncio.gather(*map(one, removals)))


async def _remove(res: Resources, removal: _Removal) -> _Outcome:
    reach(res.settings.fault_points, "before_removal")
    try:
        await objects.remove(res.storage, removal.key)
    except Permanent as exc:
        return _Outcome(removal, "locked", exc.message, LOCKED)
    except Transient as exc:
        # The storage may still be about to remove it.
        return _Outcome(removal, "removing", exc.message, LEASE)
    reach(res.settings.fault_points, "after_removal")
    return _Outcome(removal, "removed")


async def _settle(conn: AsyncConnection, outcomes: Sequence[_Outcome]) -> None:
    ordered = sorted(outcomes, key=lambda each: each.removal.key)
    given = {
        "keys": [each.removal.key for each in ordered],
        "numbers": [each.removal.number for each in ordered],
        "states": [each.state for each in ordered],
        "reasons": [each.reason for each in ordered],
        "pauses": [each.again_in for each in ordered],
    }
    await conn.execute(_SETTLE, given)
    counts = Counter("failed" if each.state == "removing" else each.state for each in ordered)
    for outcome, count in counts.items():
        OBJECTS_REMOVED.labels(outcome).inc(count)
    if counts.total() > counts["removed"]:
        reason = next(each.reason for each in ordered if each.reason)
        log.warning("objects_not_removed", locked=counts["locked"], failed=counts["failed"], reason=reason)


async def _forget(conn: AsyncConnection) -> None:
    await conn.execute(_FORGET, {"after": FORGET_AFTER, "limit": BATCH})


_KEYS = bindparam("keys", type_=ARRAY(Text))
_LIMIT = bindparam("limit", type_=Integer())
# No row names an object that is being removed.
_REQUEST = text("""
INSERT INTO objects_to_remove (key, receipt_id) SELECT unnest(:keys), :receipt_id
ON CONFLICT (key) DO UPDATE SET receipt_id = excluded.receipt_id, requested_at = now(), number = excluded.number,
    state = 'waiting', barrier = NULL, due_at = now(), removed_at = NULL, reason = NULL
WHERE objects_to_remove.state <> 'removing'
""").bindparams(_KEYS, bindparam("receipt_id", type_=BigInteger()))
_TRY_LOCK = text(f"SELECT pg_try_advisory_xact_lock({_REMOVER_LOCK})")
# Each transaction has a lock on its own virtual number, which is never used again. Unlike an ordinary number, it has that
# before its first write.
_RUNNING = """
    SELECT virtualxid FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'virtualxid' AND pid <> pg_backend_pid() AND coalesce(datname, current_database()) = current_database()
"""
_STAMP = text(f"""
UPDATE objects_to_remove SET barrier = ARRAY({_RUNNING}) WHERE key = ANY(ARRAY(
    SELECT key FROM objects_to_remove WHERE state = 'waiting' AND barrier IS NULL AND due_at <= now()
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
))
""").bindparams(_LIMIT)  # noqa: S608 constants of ours
# Who names an object at this moment has locked its request, and the next step looks at it again.
_LOCK_DUE = text(f"""
WITH running AS MATERIALIZED (SELECT array_agg(virtualxid) AS numbers FROM ({_RUNNING}) AS every
), due AS (
    SELECT key, NOT barrier && coalesce((SELECT numbers FROM running), '{{}}') AS is_free FROM objects_to_remove
    WHERE state <> 'removed' AND barrier IS NOT NULL AND due_at <= now()
    ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
), postponed AS (
    UPDATE objects_to_remove AS request SET due_at = now() + :blocked FROM due
    WHERE request.key = due.key AND NOT is_free
)
SELECT key, is_free FROM due
""").bindparams(_LIMIT, bindparam("blocked", type_=Interval()))  # noqa: S608 constants of ours
_DROP = text("DELETE FROM objects_to_remove WHERE key = ANY(:keys)").bindparams(_KEYS)
_BEGIN = text("""
UPDATE objects_to_remove SET state = 'removing', due_at = now() + :lease, reason = NULL
WHERE key = ANY(:keys) RETURNING key, number
""").bindparams(_KEYS, bindparam("lease", type_=Interval()))
_SETTLE = text("""
WITH outcome AS (
    SELECT * FROM unnest(:keys, :numbers, :states, :reasons, :pauses) AS outcome (key, number, state, reason, pause)
), settled AS (
    UPDATE objects_to_remove AS request SET state = outcome.state, reason = outcome.reason,
        due_at = now() + outcome.pause, removed_at = CASE WHEN outcome.state = 'removed' THEN now() END
    FROM outcome WHERE request.key = outcome.key AND request.number = outcome.number AND request.state = 'removing'
    RETURNING receipt_id, request.state
), removed AS (
    SELECT receipt_id, count(*) AS objects FROM settled WHERE state = 'removed' GROUP BY receipt_id
)
UPDATE receipts SET objects_removed = objects_removed + removed.objects FROM removed WHERE id = removed.receipt_id
""").bindparams(
    _KEYS,
    bindparam("numbers", type_=ARRAY(BigInteger)),
    *(bindparam(name, type_=ARRAY(Text)) for name in ("states", "reasons")),
    bindparam("pauses", type_=ARRAY(Interval)),
)
_FORGET = text("""
WITH due AS (
    SELECT key FROM objects_to_remove WHERE state = 'removed' AND removed_at < now() - :after
    ORDER BY removed_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
DELETE FROM objects_to_remove USING due WHERE objects_to_remove.key = due.key
""").bindparams(_LIMIT, bindparam("after", type_=Interval()))
