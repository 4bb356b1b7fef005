"""How many signatures in a row were wrong, as far as one process knows."""

import time
from dataclasses import dataclass


@dataclass
class Streak:
    """Counts in memory alone: who sends rubbish must cost us nothing but the answer."""

    length: int = 0
    code: str = ""  # of the last
    noted: int = 0  # the length that was put on record
    _last: float = 0.0

    @property
    def age(self) -> float:
        """Seconds since the last wrong one."""
        return time.monotonic() - self._last

    def bad(self, code: str) -> None:
        self.length += 1
        self.code = code
        self._last = time.monotonic()

    def good(self) -> None:
        self.length = self.noted = 0
