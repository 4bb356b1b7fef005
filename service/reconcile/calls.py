"""Calls of long runs to target and storage: repeated during short outages, and limited in bytes per second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.errors import Transient

T = TypeVar("T")

MAX_CALLS = 3
PAUSE_SECONDS = 1.0


async def with_retries(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call after transient errors; raises Transient if the last one fails too."""
    for _ in range(MAX_CALLS - 1):
        try:
            return await call()
        except Transient:
            await asyncio.sleep(PAUSE_SECONDS)
    return await call()


class RateLimit:
    """Limit the average rate of bytes; concurrent readers share it."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = time.monotonic()

    async def spend(self, size: int) -> None:
        """Wait until the bytes that were spent before are paid for."""
        now = time.monotonic()
        begin = max(now, self._free_at)
        self._free_at = begin + size / self._rate
        if begin > now:
            await asyncio.sleep(begin - now)
