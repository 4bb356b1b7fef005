"""The limit of "Work": download files without queue or database; print the seconds, and the processor time, the program's own and the system's."""

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import uvloop


async def main(
    directory: Path, address: str, count: int, at_once: int, *, careful: bool
) -> tuple[float, float, float]:
    """Return the seconds from the first request to the last file, and the processor's: user and system."""
    numbers = iter(range(count))
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector) as session:
        start, before = time.monotonic(), os.times()
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(_fetch_some(session, directory, address, numbers, careful=careful))
        after = os.times()
        return time.monotonic() - start, after.user - before.user, after.system - before.system


async def _fetch_some(
    session: aiohttp.ClientSession, directory: Path, address: str, numbers: Iterator[int], *, careful: bool
) -> None:
    for number in numbers:
        digest = hashlib.sha256()
        async with session.get(address.format(number), raise_for_status=True) as response:
            with (directory / str(number)).open("wb") as file:
                async for chunk in response.content.iter_any():
                    file.write(chunk)
                    if careful:
                        digest.update(chunk)
                if careful:
                    file.flush()
                    await asyncio.to_thread(os.fsync, file.fileno())


if __name__ == "__main__":
    directory, address, count, at_once, careful = sys.argv[1:]
    took, user, system = uvloop.run(
        main(Path(directory), address, int(count), int(at_once), careful=careful == "careful")
    )
    sys.stdout.write(f"{took} {user} {system}\n")
