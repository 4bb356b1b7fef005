"""How long to wait before another attempt, and how long the other side asks for."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from service.errors import Transient

# Statuses below 500 that a later request may not get any more.
RETRYABLE = frozenset({408, 425, 429})


def backoff(retries: int, least: float, most: float, errors: Iterable[Transient] = ()) -> timedelta:
    """Wait exponentially longer with each retry, with jitter, and no shorter than the slowest asked for.

    `least` and `most` are seconds; nobody who asks gets more than `most`. The first time who asks is taken at their
    word: who asks for a second each time would else use up in minutes what is meant for days.
    """
    asked = [error.retry_after.total_seconds() for error in errors if error.retry_after is not None]
    upper = min(least * 2 ** min(retries + 1, 30), most)
    pause = random.uniform(max(least, upper / 2), upper)  # noqa: S311 no secret
    wanted = max(asked) if asked and retries == 0 else max([pause, *asked])
    return timedelta(seconds=min(wanted, most))


def asked_for(retry_after: str) -> timedelta | None:
    """Read a Retry-After, which is seconds or a date; None for what is neither, or more than a day away.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    try:
        if retry_after.isascii() and retry_after.isdigit():
            pause = timedelta(seconds=int(retry_after))
        else:
            pause = parsedate_to_datetime(retry_after) - datetime.now(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(pause, timedelta()) if pause <= timedelta(days=1) else None
