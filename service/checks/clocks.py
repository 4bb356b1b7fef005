"""Compare clocks: signatures, certificates and S3 go by this host's, all times on record by that of Postgres."""

import time
from collections.abc import Callable

from sqlalchemy import text

from service.checks.finding import SECONDS, Check
from service.postgres.engine import connect, within
from service.resources import Resources

ODD_SECONDS = 5
WRONG_SECONDS = 60


async def check_clock_of_postgres(res: Resources, now: Callable[[], float] = time.time) -> Check:
    async def ask() -> float:
        async with connect(res.engine) as conn:
            before = now()
            theirs = await conn.scalar(text("SELECT extract(epoch FROM clock_timestamp())::float8"))
            return float(theirs or 0) - (before + now()) / 2

    return _judge("Postgres", await within(SECONDS, ask()))


async def check_clock_of_redis(res: Resources, now: Callable[[], float] = time.time) -> Check:
    await res.redis.ping()  # to connect is not part of the way there and back
    before = now()
    seconds, microseconds = await res.redis.time()
    return _judge("Redis", seconds + microseconds / 1e6 - (before + now()) / 2)


def _judge(whose: str, ahead: float) -> Check:
    found = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this host's"
    if abs(ahead) <= ODD_SECONDS:
        return Check(f"clock of {whose}", True, f"{abs(ahead):.1f} s from this host's")
    advice = f"let an NTP service set the clocks of this host and of {whose}"
    return Check(f"clock of {whose}", None if abs(ahead) <= WRONG_SECONDS else False, found, advice)
