"""Ctrl-C and its relatives: SIGINT, SIGTERM (`kill`) and SIGHUP (the terminal is gone) all mean: end in order."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def interruptible() -> Iterator[None]:
    """End the block quietly, its cleaning-up included, when one of the signals comes. For the main thread."""
    before = {number: signal.getsignal(number) for number in _signals()}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until_told(main: Callable[[asyncio.Event], Coroutine[object, object, None]]) -> None:
    """Run `main(hurry)` until it is done or one of the signals cancels it; a further one sets `hurry`."""
    asyncio.run(_run(main))


async def _run(main: Callable[[asyncio.Event], Coroutine[object, object, None]]) -> None:
    told, hurry = asyncio.Event(), asyncio.Event()
    task = asyncio.ensure_future(main(hurry))

    def tell() -> None:
        if told.is_set():
            hurry.set()  # to cancel again would break the cleaning-up off
        else:
            told.set()
            task.cancel()

    for number in _signals():
        asyncio.get_running_loop().add_signal_handler(number, tell)
    try:
        await task
    except asyncio.CancelledError:
        if not told.is_set():
            raise


def _signals() -> list[signal.Signals]:
    # `nohup` has SIGHUP ignored, and means it.
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]
