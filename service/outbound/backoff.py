"""The delay before another attempt, including the delay that the other side asks for."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from service.errors import Transient

# Statuses below 500 after which a later request may succeed.
RETRYABLE = frozenset({408, 425, 429})


def backoff(retries: int, least: float, most: float, errors: Iterable[Transient] = ()) -> timedelta:
    """Return an exponentially growing pause with jitter, at least as long as the longest `retry_after` of the errors.

    `least` and `most` are seconds; `most` also bounds a `retry_after`. Only the first retry takes a
    `retry_after` as it is: a server that always asks for one second would otherwise use up all retries in
    minutes.
    """
    asked = [error.retry_after.total_seconds() for error in errors if error.retry_after is not None]
    upper = min(least * 2 ** min(retries + 1, 30), most)
    pause = random.uniform(max(least, upper / 2), upper)  # noqa: S311 not a secret
    wanted = max(asked) if asked and retries == 0 else max([pause, *asked])
    return timedelta(seconds=min(wanted, most))


def parse_retry_after(retry_after: str) -> timedelta | None:
    """Parse a Retry-After of seconds or a date; None for any other text, or for more than a day.

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
