"""What a look at one thing found, and what to do about it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redis.exceptions import RedisError

from service.errors import HoldfastError
from service.postgres.pool import ADVICE, HOLDERS, TOO_MANY
from service.queue.arq_queue import reason_of

# Of one probe; they run all together.
SECONDS = 5.0
_ACCEPT = "set REDIS_VERIFY_TLS=false where that is meant to be so, as on Heroku; else renew the certificate"
# So that a look at Postgres, which has the same budget, says itself why it took so long.
GRACE_SECONDS = 1.0
CONNECTIONS = "connections"


@dataclass(frozen=True, slots=True)
class Check:
    """A thing that was looked at; `ok` is None where it works, but not as it should."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


async def probe(name: str, look: Callable[[], Awaitable[Check]], advice: str) -> Check:
    """Look at one thing, in bounded time; where that cannot be done, say why, and give this advice."""
    try:
        async with asyncio.timeout(SECONDS + GRACE_SECONDS):
            return await look()
    except TimeoutError:
        return Check(name, False, f"no answer within {SECONDS:g} s", advice)
    except HoldfastError as exc:
        return _refused(name, exc) if exc.code == TOO_MANY else Check(name, False, exc.message, advice)
    except RedisError as exc:
        reason = reason_of(exc)
        return Check(name, False, reason, _ACCEPT if "REDIS_VERIFY_TLS" in reason else advice)
    except Exception as exc:  # noqa: BLE001 whatever it is, it is what was found; its text may hold a password
        return Check(name, False, type(exc).__name__, advice)


def _refused(name: str, why: HoldfastError) -> Check:
    """Say once what to do about too many connections, and of the others only that they could not be looked at."""
    found, _, _ = why.message.partition(" What to do:")
    if name == CONNECTIONS:
        return Check(name, False, found, f"{ADVICE}; {HOLDERS} shows who holds them")
    return Check(name, False, "Postgres refuses connections, too many are open", f"see {CONNECTIONS}")
