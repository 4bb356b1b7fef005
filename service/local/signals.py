"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is closed) all start an orderly shutdown."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def interruptible() -> Iterator[None]:
    """Leave the block without a traceback, but with its cleanup, at one of the signals. Only in the main thread."""
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
    """Run `main(hurry)` until it returns or a signal cancels it; a second signal sets `hurry`."""
    asyncio.run(_run(main))


async def _run(main: Callable[[asyncio.Event], Coroutine[object, object, None]]) -> None:
    stopping, hurry = asyncio.Event(), asyncio.Event()
    task = asyncio.ensure_future(main(hurry))

    def stop() -> None:
        if stopping.is_set():
            hurry.set()  # a second cancellation would interrupt the cleanup
        else:
            stopping.set()
            task.cancel()

    for number in _signals():
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


def _signals() -> list[signal.Signals]:
    # Under `nohup`, SIGHUP stays ignored.
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]
