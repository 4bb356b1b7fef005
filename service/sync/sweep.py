"""Carry by the clock what is due: rung in vain, given back, or held by a worker that died."""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import structlog

from service.errors import Transient
from service.jobs import syncs
from service.jobs.syncs import SyncClaim
from service.postgres.engine import run
from service.queue.suspects import Suspects
from service.resources import Resources
from service.sync.attempt import carry, for_certain

BATCH = 100
# While settings change, processes with and without a target run side by side.
DROP_AFTER = timedelta(minutes=5)
DROP_SECONDS = 60.0
# Where something was due, more may be.
MORE_SECONDS = 0.05

log = structlog.get_logger()


async def sync_for_ever(res: Resources) -> None:
    """Carry what is due as far as there is room, until cancelled; needs Postgres and the targets alone.

    Any number of workers may do so at once: each takes other rows.
    """
    running: set[asyncio.Task[None]] = set()
    suspects = Suspects(res.settings.syncs_per_process)
    try:
        while True:
            began = await _begin(res, running, suspects)
            pause = res.settings.sweep_seconds * random.uniform(0.5, 1.5)  # noqa: S311 no secret
            await asyncio.sleep(min(pause, MORE_SECONDS) if began else pause)
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


async def drop_for_ever(res: Resources) -> None:
    """Where there is no target any more, let go of what waits for it, until cancelled."""
    dropped = 0
    while True:
        await asyncio.sleep(DROP_SECONDS if dropped < BATCH else MORE_SECONDS)
        drop = partial(syncs.drop_overdue, limit=BATCH, after=DROP_AFTER)
        try:
            dropped = await run(res.engine, res.settings.database_seconds, drop)
        except Transient as exc:
            log.warning("syncs_not_swept", code=exc.code)
            dropped = 0
        if dropped:
            log.warning("syncs_dropped", emails=dropped)


async def _begin(res: Resources, running: set[asyncio.Task[None]], suspects: Suspects) -> int:
    """Begin with what is due; return how much that was."""
    if not (room := min(res.circuit_breakers.free_slots, BATCH)):
        return 0
    due = await for_certain(res, _take(res, room, suspects))
    for held in due:
        task = asyncio.create_task(_pass(res, held))
        running.add(task)
        task.add_done_callback(running.discard)
        if held.unsettled:
            suspects.add(str(held.email_id), held.unsettled)
            task.add_done_callback(partial(_forget, suspects, held))
    return len(due)


def _forget(suspects: Suspects, held: SyncClaim, _: asyncio.Task[None]) -> None:
    suspects.discard(str(held.email_id))


async def _take(res: Resources, room: int, suspects: Suspects) -> Sequence[SyncClaim]:
    lease = res.settings.sync_lease
    take = partial(syncs.claim_due, limit=room, lease=lease, room_for=suspects.room_for)
    try:
        return await run(res.engine, res.settings.database_seconds, take)
    except Transient as exc:
        log.warning("syncs_not_swept", code=exc.code)
        return ()


async def _pass(res: Resources, held: SyncClaim) -> None:
    with res.circuit_breakers.slot():
        await carry(res, held)
