"""Read no faster than is wanted, however many read at once."""

import asyncio
import time


class Pace:
    """Lets so many bytes pass in a second, on the average."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = time.monotonic()

    async def spend(self, number: int) -> None:
        """Wait until what was let pass before would be over."""
        now = time.monotonic()
        begin = max(now, self._free_at)
        self._free_at = begin + number / self._rate
        if begin > now:
            await asyncio.sleep(begin - now)
