"""Faults of the storage: a disk that is full, and one that is not there."""

import asyncio
import os
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from service.local.drill.ground import Ground

_SECONDS = 6


async def _full(ground: Ground, _: Random) -> None:
    """Let no worker write another byte to a file, as a quota does."""
    workers = [child.process for name, child in ground.processes.items() if name.startswith("worker.")]
    pids = [process.pid for process in workers if process]
    _limit(pids, 0)
    try:
        await asyncio.sleep(_SECONDS)
    finally:
        _limit(pids, resource.RLIM_INFINITY)


async def _away(ground: Ground, _: Random) -> None:
    """Put something in the place of the storage that is no directory."""
    _link(ground.storage, Path(os.devnull))
    try:
        await asyncio.sleep(_SECONDS)
    finally:
        _link(ground.storage, ground.objects)


FAULTS: Mapping[str, Callable[[Ground, Random], Awaitable[None]]] = {
    **({"storage.full": _full} if sys.platform == "linux" else {}),
    "storage.away": _away,
}


def _limit(pids: list[int], most: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(
                pid, resource.RLIMIT_FSIZE, (most if hard == resource.RLIM_INFINITY else hard, hard)
            )


def _link(link: Path, target: Path) -> None:
    """Change where a link leads, with no moment in between."""
    new = link.with_name("storage.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)
