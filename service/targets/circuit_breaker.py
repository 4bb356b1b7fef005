"""Circuit breakers of the targets, and the limit of syncs that one process runs at once."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import Transient

MIN_OPEN_SECONDS = 0.5
MAX_OPEN_SECONDS = 15.0


@dataclass(slots=True)
class _Circuit:
    """The state of one target's circuit breaker: closed without failures, else open until a time."""

    failures: int = 0
    open_until: float = 0.0
    is_probing: bool = False
    error: Transient | None = None


class CircuitBreakers:
    """One circuit breaker per target: after a failure it opens; later a single e-mail probes the target.

    While all are open, no sync starts, so an outage uses up no retry of the waiting e-mails. Its end is noticed within
    MAX_OPEN_SECONDS, or within `longest` seconds if a target asked for a pause.
    """

    def __init__(
        self,
        names: Iterable[str],
        max_running: int,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._circuits = {name: _Circuit() for name in names}
        self._max_running = max_running
        self._longest = longest
        self._clock = clock
        self._running = 0

    @property
    def free_slots(self) -> int:
        """Return how many more syncs may start now."""
        circuits = self._circuits.values()
        if any(not circuit.failures for circuit in circuits):
            return max(0, self._max_running - self._running)
        return int(not self._running and any(self._clock() >= circuit.open_until for circuit in circuits))

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Use a slot for the length of the block."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def refusal(self, name: str) -> Transient | None:
        """Return the last error if the target's circuit breaker is open; else None, and the caller reports the outcome.

        A call after the pause is the probe. The circuit breaker opens again at once for all other callers.
        """
        circuit = self._circuits[name]
        if circuit.failures:
            if self._clock() < circuit.open_until:
                return circuit.error
            # Bounded, because a probe that is cancelled reports no outcome.
            circuit.open_until = self._clock() + MAX_OPEN_SECONDS
            circuit.is_probing = True
        return None

    def report(self, name: str, error: Transient | None) -> None:
        """Open or close the target's circuit breaker; concurrent failures count as one."""
        circuit = self._circuits[name]
        if error is None:
            self._circuits[name] = _Circuit()
        elif circuit.is_probing or self._clock() >= circuit.open_until:
            circuit.failures += 1
            circuit.is_probing, circuit.error = False, error
            asked = error.retry_after.total_seconds() if error.retry_after else 0
            pause = min(MIN_OPEN_SECONDS * 2 ** min(circuit.failures - 1, 10), MAX_OPEN_SECONDS)
            circuit.open_until = self._clock() + max(pause, min(asked, self._longest))
