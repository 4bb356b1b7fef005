"""What a look at one thing found, and what to do about it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.errors import HoldfastError
from service.pool import ADVICE, TOO_MANY, refusal

# Of one probe; they run all together.
SECONDS = 5.0


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
        async with asyncio.timeout(SECONDS):
            return await look()
    except TimeoutError:
        if refused := refusal():
            return Check(name, False, refused.message, ADVICE)
        return Check(name, False, f"no answer within {SECONDS:g} s", advice)
    except HoldfastError as exc:
        return Check(name, False, exc.message, ADVICE if exc.code == TOO_MANY else advice)
    except Exception as exc:  # noqa: BLE001 whatever it is, it is what was found; its text may hold a password
        return Check(name, False, type(exc).__name__, advice)
