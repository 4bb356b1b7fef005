"""The hourly reconciliation: recent e-mails, and one of 24 parts of the storage."""

import asyncio
import hashlib
from datetime import timedelta
from functools import partial

import structlog

from service.errors import Transient
from service.reconcile import record
from service.reconcile.run import execute, target_names
from service.resources import Resources

# The hourly job starts in several workers, perhaps after another one has finished.
PAUSE = timedelta(minutes=30)

log = structlog.get_logger()


def minute(place: str) -> int:
    """Return this installation's minute of the hour: installations with a shared server start at different times."""
    return hashlib.sha256(place.encode()).digest()[0] * 60 // 256


async def reconcile_when_told(res: Resources, hour: asyncio.Event) -> None:
    """Reconcile each time the event is set, until cancelled; repair differences of the target by new syncs."""
    while True:
        await hour.wait()
        hour.clear()
        try:
            await reconcile_hourly(res)
        except Transient as exc:
            log.warning("reconciliation_not_begun", code=exc.code)


async def reconcile_hourly(res: Resources) -> int | None:
    """Run the reconciliation of this hour; return its id, or None if another process has begun it."""
    begin = partial(
        record.begin_hourly,
        fix="syncs",
        hours=res.settings.reconcile_hours,
        targets=target_names(res),
        pause=PAUSE,
    )
    if (run := await res.insist(begin)) is None:
        return None
    await execute(res, run, lambda _share, _totals: None)
    return run.id
