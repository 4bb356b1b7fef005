"""Hand claims back at the shutdown of a worker, so that no job waits for the end of its lease."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# A platform kills a process some seconds after it asked it to end.
HAND_BACK_SECONDS = 5.0


async def claim_or_hand_back(
    claiming: Coroutine[Any, Any, Sequence[T]], hand_back: Callable[[T], Awaitable[None]]
) -> Sequence[T]:
    """Return the claims; if this task is cancelled meanwhile, hand them back instead."""
    task = asyncio.create_task(claiming)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=HAND_BACK_SECONDS)
        if task.done():
            await asyncio.gather(*map(hand_back, task.result()))
        raise


async def settle_at_shutdown(settling: Awaitable[bool]) -> bool:
    """Settle in a task that is being cancelled; return whether that succeeded in time."""
    task = asyncio.ensure_future(settling)  # a task of its own: a second cancellation may hit this one
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # a late error is of no use
    done, _ = await asyncio.wait({task}, timeout=HAND_BACK_SECONDS)
    return bool(done) and not task.exception()
