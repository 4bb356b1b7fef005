"""Isolate jobs and syncs that may end worker processes, so that they do not harm others."""


class Suspects:
    """The suspects that run in one process: jobs or syncs whose last attempts were abandoned, and how often in a row.

    Suspects run only beside suspects that were abandoned equally often; the more often, the fewer at once (of 200 slots:
    25, 3, then 1). So a job that ends its worker is soon the only suspect there, and the jobs that once ran beside it
    run without it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._running)

    def room_for(self, abandoned: int) -> int:
        """Return how many more suspects with this number of abandoned attempts in a row may start."""
        if set(self._running.values()) - {abandoned}:
            return 0
        return max(0, max(1, self._most >> 3 * abandoned) - len(self._running))

    def add(self, job_id: str, abandoned: int) -> None:
        self._running[job_id] = abandoned

    def discard(self, job_id: str) -> None:
        self._running.pop(job_id, None)
