"""Many awaiting callers, one database statement and one commit."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent, Transient
from service.telemetry.metrics import BATCHES

T = TypeVar("T")
R = TypeVar("R")

# One result for each item, in order.
Statement = Callable[[AsyncConnection, Sequence[T]], Awaitable[Sequence[R]]]
Run = Callable[[Statement[Any, Any], Sequence[Any]], Awaitable[Sequence[Any]]]

# At once, for each kind of statement: one that is stuck does not hold up all others.
LANES = 2
MOST_TOGETHER = 200
MOST_TOGETHER_BYTES = 4 * 1024**2
# Beyond these, another caller is better told to come again than kept waiting.
MOST_WAITING = 1_000


class Batcher:
    """Called with a statement and an item, gives the item's result; those who call meanwhile share the next one.

    Raises what the statement raises, and Transient where too many wait. An item that Postgres refuses fails
    alone; a caller that is cancelled harms no other.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lines: dict[Statement[Any, Any], _Line[Any, Any]] = {}

    async def __call__(self, statement: Statement[T, R], item: T, size: int = 0) -> R:
        """Wait for the result; `size` is what the item weighs, in bytes."""
        return await self._line(statement).join(item, size)

    def is_full(self, statement: Statement[Any, Any]) -> bool:
        """Whether nobody else may wait for it."""
        return self._line(statement).is_full

    async def close(self, seconds: float) -> None:
        """Give what is under way this long."""
        if tasks := {task for line in self._lines.values() for task in line.tasks}:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()

    def _line(self, statement: Statement[T, R]) -> "_Line[T, R]":
        if statement not in self._lines:
            observe = BATCHES.labels(getattr(statement, "__name__", "other")).observe
            self._lines[statement] = _Line(lambda items: self._run(statement, items), observe)
        return self._lines[statement]


class _Line(Generic[T, R]):
    """Those who wait for one kind of statement."""

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

    def join(self, item: T, size: int) -> asyncio.Future[R]:
        if self.is_full:
            raise Transient("overloaded", "More comes in than Postgres can take.")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((item, size, future))
        # Where somebody waits already, a lane is on its way to them.
        if len(self.tasks) < LANES and (len(self._waiting) == 1 or not self.tasks):
            # It works for many: what it logs is not of the one who happened to be first.
            self.tasks.add(asyncio.create_task(self._work(), context=Context()))
        return future

    async def _work(self) -> None:
        try:
            while batch := self._take():
                self._observe(len(batch))
                await self._settle(batch)
        finally:  # at once: whoever joined before a callback ran would take this lane for one that comes
            self.tasks.discard(asyncio.current_task())

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        """Take all that wait, as far as they fit into one statement; leave out who has gone."""
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
            else:  # whose fault it was, only trying tells
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
        except BaseException as exc:
            _fail(
                batch, exc if isinstance(exc, Exception) else Transient("shutting_down", "This process ends.")
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
