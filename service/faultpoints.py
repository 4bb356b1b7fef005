"""Points at which a drill kills or hangs this process; without FAULT_POINTS they do nothing."""

import os
import signal
import threading
from pathlib import Path


def reach(directory: Path | None, point: str, ticket_id: str = "") -> None:
    """Fall if somebody armed this point: a file of its name is there, which says `kill` or `hang`.

    One process falls for it, since it takes the file away first. A file `point@ticket_id` stays: whoever
    works on that e-mail falls.
    """
    if directory is None:
        return
    lasting = directory / f"{point}@{ticket_id if ticket_id.isalnum() else ''}"
    if lasting.exists():
        _fall(lasting.read_text())
    armed, taken = directory / point, directory / f"{point}.{os.getpid()}"
    try:
        armed.rename(taken)
    except FileNotFoundError:
        return
    _fall(taken.read_text())


def _fall(how: str) -> None:
    if how == "hang":
        threading.Event().wait()  # in the way of everything, as a loop without an end would be
    os.kill(os.getpid(), signal.SIGKILL)
