"""Group commit: callers that arrive during a run share the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

from service.errors import Permanent, Transient

T = TypeVar("T")
R = TypeVar("R")

# Runs of one kind at once: a stuck one does not stop all others.
LANES = 2
MOST_TOGETHER = 200
MOST_TOGETHER_BYTES = 4 * 1024**2
# Above this, a caller gets an error at once instead of a long wait.
MOST_WAITING = 1_000


class GroupCommit(Generic[T, R]):
    """Runs one operation for the items of many callers, and gives each its result.

    `run` returns one result for each item, in order, and `observe` is told the number of items. If a run raises
    Permanent, its items are run apart, so that one that is refused fails alone; a cancelled caller harms no other.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]], observe: Callable[[float], None]
    ) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._run = run
        self._observe = observe
        self._waiting: deque[tuple[T, int, asyncio.Future[R]]] = deque()

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= MOST_WAITING

    def add(self, item: T, size: int) -> asyncio.Future[R]:
        """Let the next run take an item of this size in bytes; raises Transient if too many wait."""
        if self.is_full:
            raise Transient("overloaded", "More requests arrive than can be handled.")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((item, size, future))
        # If another caller waits already, a lane is about to take it.
        if len(self.tasks) < LANES and (len(self._waiting) == 1 or not self.tasks):
            # A lane works for many callers: an empty context keeps the first one's fields out of its log
            # lines.
            self.tasks.add(asyncio.create_task(self._work(), context=Context()))
        return future

    async def _work(self) -> None:
        try:
            while batch := self._take():
                self._observe(len(batch))
                await self._settle(batch)
        finally:  # at once: a later callback would let a new caller count on this lane
            self.tasks.discard(asyncio.current_task())

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        """Take waiting items, as many as fit into one run; skip cancelled callers."""
        batch: list[tuple[T, asyncio.Future[R]]] = []
        total = 0
        while self._waiting and len(batch) < MOST_TOGETHER:
            item, size, future = self._waiting[0]
            if batch and total + size > MOST_TOGETHER_BYTES:
                break
            self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
                total += size
        return batch

    async def _settle(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except Permanent as exc:
            if len(batch) == 1:
                _fail(batch, exc)
            else:  # only separate runs tell which item is refused
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
        except BaseException as exc:
            _fail(
                batch,
                exc
                if isinstance(exc, Exception)
                else Transient("shutting_down", "This process is shutting down."),
            )
            if not isinstance(exc, Exception):
                raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _fail(batch: Sequence[tuple[Any, asyncio.Future[Any]]], exc: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(exc)
