"""Keep away from targets that do not answer, and let no more at them than a process may."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import Transient

LEAST_SECONDS = 0.5
MOST_SECONDS = 15.0


@dataclass(slots=True)
class _Door:
    """The way to one target: open, or shut for a while after it did not do."""

    failures: int = 0
    shut_until: float = 0.0
    is_tried: bool = False
    error: Transient | None = None


class Gate:
    """Before all targets. One that did not do is left alone for a while; then one e-mail tries it, and no other.

    Where all are left alone, nothing passes: an outage so costs each e-mail that waits nothing, and its end is noticed
    within MOST_SECONDS, or within `longest` seconds where a target asked us to stay away.
    """

    def __init__(
        self, names: Iterable[str], most: int, longest: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._doors = {name: _Door() for name in names}
        self._most = most
        self._longest = longest
        self._clock = clock
        self._within = 0

    @property
    def room(self) -> int:
        """How many more may pass now."""
        doors = self._doors.values()
        if any(not door.failures for door in doors):
            return max(0, self._most - self._within)
        return int(not self._within and any(self._clock() >= door.shut_until for door in doors))

    @contextmanager
    def passing(self) -> Iterator[None]:
        self._within += 1
        try:
            yield
        finally:
            self._within -= 1

    def refusal(self, name: str) -> Transient | None:
        """Say why a target is left alone; None if it is to be asked, with a `note` of how it went."""
        door = self._doors[name]
        if door.failures:
            if self._clock() < door.shut_until:
                return door.error
            # Others wait for whoever tries; if it is cut off, not for long.
            door.shut_until = self._clock() + MOST_SECONDS
            door.is_tried = True
        return None

    def note(self, name: str, error: Transient | None) -> None:
        """Note how it went with a target; of many who failed together, one counts."""
        door = self._doors[name]
        if error is None:
            self._doors[name] = _Door()
        elif door.is_tried or self._clock() >= door.shut_until:
            door.failures += 1
            door.is_tried, door.error = False, error
            asked = error.retry_after.total_seconds() if error.retry_after else 0
            pause = min(LEAST_SECONDS * 2 ** min(door.failures - 1, 10), MOST_SECONDS)
            door.shut_until = self._clock() + max(pause, min(asked, self._longest))
