"""A way to Postgres and one to Valkey in a process of their own, each so far away as it is told.

`python -m benchmarks.ways SOCKET SECONDS SOCKET SECONDS` prints the ports that lead there.
"""

import asyncio
import sys
from functools import partial

import uvloop

from service.local.drill.proxy import Proxy


async def _lead(postgres: str, postgres_delay: str, redis: str, redis_delay: str) -> None:
    async with (
        Proxy(partial(asyncio.open_unix_connection, postgres)) as first,
        Proxy(partial(asyncio.open_unix_connection, redis)) as second,
    ):
        first.delay, second.delay = float(postgres_delay), float(redis_delay)
        sys.stdout.write(f"{first.port} {second.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_lead(*sys.argv[1:]))
