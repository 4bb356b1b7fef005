"""End what may hang, without waiting for it for long."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

SECONDS = 2.0


async def leave(work: Callable[[], object]) -> bool:
    """Do what blocks in a thread of its own; False where it was not done in time, and is left behind."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, daemon=True).start()  # one that the interpreter's end does not wait for
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            await done.wait()
    return done.is_set()
