"""End a process whose event loop stands still: it answers nobody, and what it holds is given to others."""

import asyncio
import faulthandler

LEAST_SECONDS = 5.0


async def watch(seconds: float) -> None:
    """Until cancelled, see that the process ends, with a traceback, once its loop has not turned for so long.

    Nothing inside Python could do that: what hangs may hold the interpreter's lock. The platform starts
    the process again.
    """
    seconds = max(seconds, LEAST_SECONDS)
    try:
        while True:
            faulthandler.dump_traceback_later(seconds, exit=True)
            await asyncio.sleep(seconds / 4)
    finally:
        faulthandler.cancel_dump_traceback_later()
