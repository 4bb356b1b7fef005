"""Isolate what may kill worker processes, so that others do not pay for it."""


class Suspects:
    """The suspects that run in one process: jobs, or syncs, whose last attempts nobody ended, and how many in a row.

    Suspects run only beside suspects that were abandoned equally often, and the more often, the fewer of them
    (of 200 jobs: 25, 3, then 1). So a job that kills its worker is soon the only suspect there, whereas its former
    neighbours run without it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._running)

    def room_beside(self, abandoned: int) -> int:
        """How many more may start that were abandoned so often in a row."""
        if set(self._running.values()) - {abandoned}:
            return 0
        return max(0, max(1, self._most >> 3 * abandoned) - len(self._running))

    def add(self, job_id: str, abandoned: int) -> None:
        self._running[job_id] = abandoned

    def discard(self, job_id: str) -> None:
        self._running.pop(job_id, None)
