"""The reconciliation of each hour: what came of late, and a part of the storage, all of which is looked at once a day."""

import asyncio
import hashlib
from datetime import timedelta
from functools import partial

import structlog

from service.errors import Transient
from service.reconcile import record
from service.reconcile.calls import ask
from service.reconcile.run import execute, target_names
from service.resources import Resources

# Several workers may be told of one hour, and a worker of one that was done.
PAUSE = timedelta(minutes=30)

log = structlog.get_logger()


def minute(place: str) -> int:
    """Choose the minute of the hour by where this is: not all who run Holdfast ask a shared server at the same time."""
    return hashlib.sha256(place.encode()).digest()[0] * 60 // 256


async def reconcile_when_told(res: Resources, hour: asyncio.Event) -> None:
    """Reconcile whenever it is the hour, until cancelled; what differs in the target is carried over again."""
    while True:
        await hour.wait()
        hour.clear()
        try:
            await reconcile_hourly(res)
        except Transient as exc:
            log.warning("reconciliation_not_begun", code=exc.code)


async def reconcile_hourly(res: Resources) -> int | None:
    """Do the run of this hour; return its id, None if somebody else does it, or did."""
    begin = partial(
        record.begin_hourly,
        fix="syncs",
        hours=res.settings.reconcile_hours,
        targets=target_names(res),
        pause=PAUSE,
    )
    if (run := await ask(res, begin)) is None:
        return None
    await execute(res, run, lambda _share, _totals: None)
    return run.id
