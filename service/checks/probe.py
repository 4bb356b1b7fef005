"""A check: the result of a bounded look at one thing, with advice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import HoldfastError
from service.postgres.pool import ADVICE, HOLDERS, TOO_MANY
from service.queue.arq_queue import reason_of

# Budget of one probe; all probes run at the same time.
SECONDS = 5.0
# A query of Postgres has the same budget, and its own error names the reason: let it end first.
GRACE_SECONDS = 1.0
CONNECTIONS = "connections"
_CERTIFICATE = "if that is intended, as on Heroku, set REDIS_VERIFY_TLS=false; else renew the certificate"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a look at one thing; `ok` is None for a warning, or if nothing is known yet."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


async def probe(name: str, look: Callable[[], Awaitable[Check]], advice: str) -> Check:
    """Run a look within its budget; an error becomes a failed check with this advice. Raises nothing."""
    try:
        async with asyncio.timeout(SECONDS + GRACE_SECONDS):
            return await look()
    except Exception as exc:  # noqa: BLE001 any error is a result
        return failed(name, exc, advice, SECONDS)


def failed(name: str, error: Exception, advice: str, seconds: float) -> Check:
    """Describe an error for operators; the text holds no secret."""
    match error:
        case TimeoutError() | RedisTimeoutError():
            return Check(name, False, f"no answer within {seconds:g} s", advice)
        case HoldfastError(code=code) if code == TOO_MANY:
            return _refused(name, error)
        case HoldfastError():
            return Check(name, False, error.message, advice)
        case RedisError():
            reason = reason_of(error)
            return Check(name, False, reason, _advice_about_redis(reason, advice))
        case _:  # the text of an unknown error may hold a password
            return Check(name, False, type(error).__name__, advice)


def _advice_about_redis(reason: str, advice: str) -> str:
    """Return the advice that fits the reason, which may itself say what to do."""
    if "REDIS_VERIFY_TLS" in reason:
        return _CERTIFICATE
    return advice.rpartition("; ")[2] if "accepts no writes" in reason else advice


def _refused(name: str, error: HoldfastError) -> Check:
    """Give the advice about too many connections once; all other checks refer to it."""
    found, _, _ = error.message.partition(" What to do:")
    if name == CONNECTIONS:
        return Check(name, False, found, f"{ADVICE}; {HOLDERS} lists their holders")
    return Check(name, False, "Postgres refuses connections, too many are open", f"see {CONNECTIONS}")
