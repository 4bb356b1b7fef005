"""Keep away from targets that do not answer, and let no more at them than a process may."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Transient

LEAST_SECONDS = 0.5
MOST_SECONDS = 15.0


class Gate:
    """Open; shut for a while after the targets as a whole did not do; then open for one, who tries.

    An outage so costs each e-mail that waits nothing, and its end is noticed within MOST_SECONDS, or within
    `longest` seconds where a target asked us to stay away.
    """

    def __init__(self, most: int, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._longest = longest
        self._clock = clock
        self._within = 0
        self._failures = 0
        self._shut_until = 0.0

    @property
    def room(self) -> int:
        """How many more may pass now."""
        if not self._failures:
            return max(0, self._most - self._within)
        return int(not self._within and self._clock() >= self._shut_until)

    @contextmanager
    def passing(self) -> Iterator[None]:
        self._within += 1
        try:
            yield
        finally:
            self._within -= 1

    def note(self, error: Transient | None) -> None:
        """Note how it went with the targets; of many who failed together, one counts."""
        if error is None:
            self._failures = 0
        elif self._clock() >= self._shut_until:
            self._failures += 1
            asked = error.retry_after.total_seconds() if error.retry_after else 0
            pause = min(LEAST_SECONDS * 2 ** min(self._failures - 1, 10), MOST_SECONDS)
            self._shut_until = self._clock() + max(pause, min(asked, self._longest))
