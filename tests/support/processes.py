"""Find processes by their command line or environment, and wait for conditions."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], object], seconds: float = 20, *, pause: float = 0.02) -> None:
    """Check the condition every `pause` seconds until it holds, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)


def processes(word: str) -> list[int]:
    """List the live processes with `word` in their command line, except this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (process / "cmdline").read_bytes() and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def left_with(mark: str) -> list[str]:
    """List the live processes with `NAME=value` in their environment, except this one and multiprocessing's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if int(process.name) != os.getpid() and "multiprocessing.resource_tracker" not in words:
                    found.append(f"{process.name} {words}")
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")

ARQ = ("arq", "service.worker.WorkerSettings")
