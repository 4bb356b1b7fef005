"""The background work of evidence in a worker: place entries, make and store heads, and record older rows."""

import asyncio
from dataclasses import dataclass

import structlog

from service.errors import HoldfastError
from service.evidence import heads, later, sequence, stamps
from service.resources import Resources, repeat_steps

SOON_SECONDS = 0.05
IDLE_SECONDS = 2.0
# The pause before a head that could not be stored is tried again.
RETRY_SECONDS = 30.0

log = structlog.get_logger()


async def log_for_ever(res: Resources) -> None:
    """Keep the log, until cancelled."""
    keeper = _Keeper(res)
    await repeat_steps(keeper.step, soon=SOON_SECONDS, idle=IDLE_SECONDS, event="evidence_step_failed")


async def make_head(res: Resources) -> int:
    """Place all entries and make a head at once; return its number. Raises HoldfastError where it cannot be stored."""
    await sequence.begin(res)
    head: int | None = None
    while head is None:
        done = await sequence.step(res, waits=True)
        assert done is not None  # noqa: S101 it waited for the lock
        if not done.has_more:
            head = done.head or await _make_wanted(res)
    await heads.put(res)
    try:
        await stamps.stamp(res)
    except HoldfastError as exc:  # `status` shows it, and a worker tries again
        log.warning("evidence_head_not_stamped", code=exc.code, error=exc.message)
    return head


async def _make_wanted(res: Resources) -> int | None:
    done = await sequence.step(res, waits=True, wants_head=True)
    return None if done is None else done.head


async def publish(res: Resources) -> None:
    """Put heads where Postgres's owner cannot change them; raises HoldfastError."""
    await heads.put(res)
    await stamps.stamp(res)


@dataclass
class _Keeper:
    """The work of one process; another one may have died between a head and its storage, so the first look is now."""

    res: Resources
    publish_at: float | None = 0
    has_begun: bool = False

    async def step(self) -> bool:
        """Take one step; return whether another is due at once."""
        if not self.has_begun:
            await sequence.begin(self.res)
            self.has_begun = True
        done = await sequence.step(self.res)
        if done is None:  # another process does it
            return False
        now = asyncio.get_running_loop().time()
        if done.head is not None:
            self.publish_at = now
        if self.publish_at is not None and self.publish_at <= now:
            self.publish_at = await self._publish(now)
        return await later.step(self.res) or done.has_more

    async def _publish(self, now: float) -> float | None:
        try:
            await publish(self.res)
        except HoldfastError as exc:
            log.warning("evidence_head_not_published", code=exc.code, error=exc.message)
            return now + RETRY_SECONDS
        return None
