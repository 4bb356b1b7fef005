"""A cached value: many callers wait for one computation."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

# An outdated value is shown for so long: a check of a dependency that does not answer takes that time.
STALE_SECONDS = 20.0


class Shared(Generic[T]):
    """A value at most `seconds` old; `find` computes it, and must not raise."""

    def __init__(self, find: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._find = find
        self._seconds = seconds
        self._value: T | None = None
        self._found_at = float("-inf")
        self._search: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return the value; compute it first if it is outdated."""
        if self._search or time.monotonic() - self._found_at >= self._seconds:
            return await asyncio.shield(self.begin())
        return self._value  # type: ignore[return-value] # it was found

    def peek(self) -> T | None:
        """Return the last value, or None if there is none or it is stale; if it is outdated, start computing."""
        age = time.monotonic() - self._found_at
        if age >= self._seconds:
            self.begin()
        return self._value if age < self._seconds + STALE_SECONDS else None

    def begin(self) -> asyncio.Task[T]:
        """Start computing a new value, unless that has started already."""
        if self._search is None:
            self._search = asyncio.create_task(self._run())
        return self._search

    async def close(self) -> None:
        if self._search:
            self._search.cancel()
            with suppress(asyncio.CancelledError):
                await self._search

    async def _run(self) -> T:
        try:
            self._value = await self._find()
            self._found_at = time.monotonic()
            return self._value
        finally:
            self._search = None
