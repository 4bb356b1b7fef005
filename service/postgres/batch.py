"""Batches: many awaiting callers share one database statement and one commit (group commit)."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from service.group_commit import GroupCommit
from service.postgres.engine import insist, unconfirmed
from service.telemetry.metrics import BATCHES

T = TypeVar("T")
R = TypeVar("R")

# Returns one result for each item, in order.
Statement = Callable[[AsyncConnection, Sequence[T]], Awaitable[Sequence[R]]]
Run = Callable[[Statement[Any, Any], Sequence[Any]], Awaitable[Sequence[Any]]]


class Batcher:
    """Runs a statement for an item and returns its result; simultaneous callers share the next run.

    Raises the statement's errors, and Transient if too many wait or the time is over. An item that Postgres refuses fails alone;
    a cancelled caller harms no other.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._queues: dict[Statement[Any, Any], GroupCommit[Any, Any]] = {}
        self._deadlines = _Deadlines()

    async def __call__(
        self, statement: Statement[T, R], item: T, size: int = 0, until: float | None = None
    ) -> R:
        """Wait for the result, at most until this time of the loop; `size` is the item's size in bytes.

        No time may be earlier than that of the caller before: one timer ends all that are late.
        """
        future = self._queue(statement).add(item, size)
        if until is not None:
            self._deadlines.add(until, future)
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

    def _queue(self, statement: Statement[T, R]) -> GroupCommit[T, R]:
        if statement not in self._queues:
            observe = BATCHES.labels(getattr(statement, "__name__", "other")).observe
            self._queues[statement] = GroupCommit(lambda items: self._run(statement, items), observe)
        return self._queues[statement]


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
