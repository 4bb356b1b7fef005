"""Fault points, at which a drill kills or hangs this process; without FAULT_POINTS they do nothing."""

import os
import signal
import threading
from pathlib import Path


def reach(directory: Path | None, point: str, ticket_id: str = "") -> None:
    """Kill or hang this process if the point is armed by a file of its name, which says `kill` or `hang`.

    One process is hit, because it removes the file first. A file `point@ticket_id` stays: it hits each process that works
    on that e-mail.
    """
    if directory is None:
        return
    permanent = directory / f"{point}@{ticket_id if ticket_id.isalnum() else ''}"
    if permanent.exists():
        _fail(permanent.read_text())
    armed, taken = directory / point, directory / f"{point}.{os.getpid()}"
    try:
        armed.rename(taken)
    except FileNotFoundError:
        return
    _fail(taken.read_text())


def _fail(how: str) -> None:
    if how == "hang":
        threading.Event().wait()  # blocks the event loop, as an endless loop would
    os.kill(os.getpid(), signal.SIGKILL)
