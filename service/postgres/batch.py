"""Batches: many awaiting callers share one database statement and one commit (group commit)."""

import asyncio
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

    async def __call__(
        self, statement: Statement[T, R], item: T, size: int = 0, until: float | None = None
    ) -> R:
        """Wait for the result, at most until this time of the loop; `size` is the item's size in bytes."""
        future = self._queue(statement).add(item, size)
        if until is None:
            return await future
        # Half of the processor time of `asyncio.timeout`, which cancels the task to end one future.
        timer = asyncio.get_running_loop().call_at(until, _give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

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


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(unconfirmed())
