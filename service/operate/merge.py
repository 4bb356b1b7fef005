"""Merge the e-mails of earlier versions, which had one row for each webhook, to one row for each comment."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import HoldfastError
from service.jobs.identity import IdentifyResult, identify
from service.jobs.merging import Pair
from service.postgres.engine import run
from service.resources import Resources

# Rows per transaction: it holds their locks for some tens of milliseconds.
BATCH = 200
# Rows per statement that only reads.
DRY_BATCH = 2_000
EXAMPLES = 10
# The pause between two batches is at least as long as a batch took: Postgres is left to the jobs half of the time.
PAUSE_SECONDS = 0.05
# The pause after the last row: some are left over while an attempt runs, and an earlier version may add others.
IDLE_SECONDS = 60.0

log = structlog.get_logger()


@dataclass(slots=True)
class MergeProgress:
    """What a pass over all e-mails that are not identified did, or would do.

    `left` are rows that could not be merged yet: an attempt runs, or another transaction has them.
    """

    examined: int = 0
    identified: int = 0
    merged: int = 0
    left: int = 0
    examples: list[Pair] = field(default_factory=list)

    def add(self, step: IdentifyResult) -> None:
        self.examined += step.examined
        self.identified += step.identified
        self.merged += len(step.merged)
        self.left += step.left
        self.examples += step.merged[: EXAMPLES - len(self.examples)]


async def identify_for_ever(res: Resources) -> None:
    """Identify and merge e-mails in the background until cancelled; any number of workers may do so at once."""
    progress, after = MergeProgress(), 0
    while True:
        began = time.monotonic()
        try:
            step = await res.run(partial(identify, after=after, limit=BATCH))
        except HoldfastError as exc:
            log.warning("emails_not_merged", code=exc.code)
            step = IdentifyResult(0)
        progress.add(step)
        if not (after := step.after) and progress.merged:
            log.info("emails_merged", merged=progress.merged, identified=progress.identified)
        if not after:
            progress = MergeProgress()
        pause = max(PAUSE_SECONDS, time.monotonic() - began) if after else IDLE_SECONDS
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 no secret


async def merge_all(
    engine: AsyncEngine, seconds: float, *, dry_run: bool = False
) -> AsyncIterator[MergeProgress]:
    """Make one pass at once, and yield its progress; `seconds` bounds each batch.

    With `dry_run` nothing is written. Raises Transient; a further call continues where this one ended.
    """
    progress, after = MergeProgress(), 0
    while True:
        limit = DRY_BATCH if dry_run else BATCH
        step = await run(engine, seconds, partial(identify, after=after, limit=limit, dry_run=dry_run))
        progress.add(step)
        yield progress
        if not (after := step.after):
            return
