"""Batches: many awaiting callers share one database statement and one commit (group commit)."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent, Transient
from service.postgres.engine import insist, unconfirmed
from service.telemetry.metrics import BATCHES

T = TypeVar("T")
R = TypeVar("R")

# Returns one result for each item, in order.
Statement = Callable[[AsyncConnection, Sequence[T]], Awaitable[Sequence[R]]]
Run = Callable[[Statement[Any, Any], Sequence[Any]], Awaitable[Sequence[Any]]]

# Statements of one kind that run at once: a stuck one does not stop all others.
LANES = 2
MOST_TOGETHER = 200
MOST_TOGETHER_BYTES = 4 * 1024**2
# Above this, a caller gets an error at once instead of a long wait.
MOST_WAITING = 1_000


class Batcher:
    """Runs a statement for an item and returns its result; simultaneous callers share the next run.

    Raises the statement's errors, and Transient if too many wait or the time is over. An item that Postgres refuses fails alone;
    a cancelled caller harms no other.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._queues: dict[Statement[Any, Any], _Queue[Any, Any]] = {}

    async def __call__(
        self, statement: Statement[T, R], item: T, size: int = 0, until: float | None = None
    ) -> R:
        """Wait for the result, at most until this time of the loop; `size` is the item's size in bytes.

        Callers of one statement that give a time give later ones in turn.
        """
        queue = self._queue(statement)
        future = queue.add(item, size)
        if until is not None:
            queue.deadlines.add(until, future)
        return await future

    async def insist(self, statement: Statement[T, R], item: T, size: int = 0) -> R:
        """Wait for the result, and repeat the call while Postgres is away; raises as `engine.insist` does."""
        return await insist(lambda: self(statement, item, size))

    def is_full(self, statement: Statement[Any, Any]) -> bool:
        """Say whether another caller would be refused."""
        return self._queue(statement).is_full

    async def close(self, seconds: float) -> None:
        """Wait this long for running batches, then cancel them."""
        if tasks := {task for queue in self._queues.values() for task in queue.tasks}:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()

    def _queue(self, statement: Statement[T, R]) -> "_Queue[T, R]":
        if statement not in self._queues:
            observe = BATCHES.labels(getattr(statement, "__name__", "other")).observe
            self._queues[statement] = _Queue(lambda items: self._run(statement, items), observe)
        return self._queues[statement]


class _Queue(Generic[T, R]):
    """The callers that wait for one kind of statement."""

    def __init__(
        self, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]], observe: Callable[[float], None]
    ) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.deadlines = _Deadlines()
        self._run = run
        self._observe = observe
        self._waiting: deque[tuple[T, int, asyncio.Future[R]]] = deque()

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= MOST_WAITING

    def add(self, item: T, size: int) -> asyncio.Future[R]:
        if self.is_full:
            raise Transient("overloaded", "More requests arrive than Postgres can handle.")
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
        """Take waiting items, as many as fit into one statement; skip cancelled callers."""
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


class _Deadlines:
    """Ends futures at their times, in order, with one timer: one for each future takes 2 % of the time of a webhook."""

    def __init__(self) -> None:
        self._open: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, until: float, future: asyncio.Future[Any]) -> None:
        self._forget_done()
        self._open.append((until, future))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(until, self._end_late)

    def _end_late(self) -> None:
        loop = asyncio.get_running_loop()
        while self._open and self._open[0][0] <= loop.time():
            _, future = self._open.popleft()
            if not future.done():
                future.set_exception(unconfirmed())
        self._forget_done()
        self._timer = loop.call_at(self._open[0][0], self._end_late) if self._open else None

    def _forget_done(self) -> None:
        while self._open and self._open[0][1].done():
            self._open.popleft()


def _fail(batch: Sequence[tuple[Any, asyncio.Future[Any]]], exc: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(exc)
