"""The sweep of syncs: claim and run those that are due, because their message was lost, a retry is due, or a worker died."""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import structlog

from service.errors import Transient
from service.jobs import syncs
from service.jobs.shutdown import claim_or_hand_back
from service.jobs.syncs import SyncClaim
from service.queue.suspects import Suspects
from service.resources import Resources
from service.sync.attempt import attempt, hand_back

BATCH = 100
# While settings change, processes with and without a target run at the same time.
DROP_AFTER = timedelta(minutes=5)
DROP_SECONDS = 60.0
# After a batch that found due rows, more may be due.
MORE_SECONDS = 0.05

log = structlog.get_logger()


async def sync_for_ever(res: Resources) -> None:
    """Run due syncs as far as there are free slots, until cancelled; needs Postgres and the targets alone.

    Any number of workers may do so at once: each claims different rows.
    """
    running: set[asyncio.Task[None]] = set()
    suspects = Suspects(res.settings.syncs_per_process)
    try:
        while True:
            started = await _start(res, running, suspects)
            pause = res.settings.sweep_seconds * random.uniform(0.5, 1.5)  # noqa: S311 no secret
            await asyncio.sleep(min(pause, MORE_SECONDS) if started else pause)
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


async def drop_for_ever(res: Resources) -> None:
    """Drop overdue syncs where there is no target any more, until cancelled."""
    dropped = 0
    while True:
        await asyncio.sleep(DROP_SECONDS if dropped < BATCH else MORE_SECONDS)
        try:
            dropped = await res.run(partial(syncs.drop_overdue, limit=BATCH, after=DROP_AFTER))
        except Transient as exc:
            log.warning("syncs_not_swept", code=exc.code)
            dropped = 0
        if dropped:
            log.warning("syncs_dropped", emails=dropped)


async def _start(res: Resources, running: set[asyncio.Task[None]], suspects: Suspects) -> int:
    """Start due syncs; return their number."""
    if not (room := min(res.circuit_breakers.free_slots, BATCH)):
        return 0
    due = await claim_or_hand_back(_claim_due(res, room, suspects), partial(hand_back, res))
    for claim in due:
        task = asyncio.create_task(_attempt(res, claim))
        running.add(task)
        task.add_done_callback(running.discard)
        if claim.unsettled:
            suspects.add(str(claim.email_id), claim.unsettled)
            task.add_done_callback(partial(_forget, suspects, claim))
    return len(due)


def _forget(suspects: Suspects, claim: SyncClaim, _: asyncio.Task[None]) -> None:
    suspects.discard(str(claim.email_id))


async def _claim_due(res: Resources, room: int, suspects: Suspects) -> Sequence[SyncClaim]:
    lease = res.settings.sync_lease
    try:
        return await res.run(partial(syncs.claim_due, limit=room, lease=lease, room_for=suspects.room_for))
    except Transient as exc:
        log.warning("syncs_not_swept", code=exc.code)
        return ()


async def _attempt(res: Resources, claim: SyncClaim) -> None:
    with res.circuit_breakers.slot():
        await attempt(res, claim)
