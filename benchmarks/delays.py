"""Proxies before Postgres and Valkey in a process of their own, each with a delay.

`python -m benchmarks.delays SOCKET SECONDS SOCKET SECONDS` prints the ports of the proxies.
"""

import asyncio
import sys
from functools import partial

import uvloop

from service.local.drill.proxy import Proxy


async def _run(postgres: str, postgres_delay: str, redis: str, redis_delay: str) -> None:
    async with (
        Proxy(partial(asyncio.open_unix_connection, postgres)) as first,
        Proxy(partial(asyncio.open_unix_connection, redis)) as second,
    ):
        first.delay, second.delay = float(postgres_delay), float(redis_delay)
        sys.stdout.write(f"{first.port} {second.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_run(*sys.argv[1:]))
