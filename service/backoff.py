"""How long to wait before another attempt."""

import random
from collections.abc import Iterable
from datetime import timedelta

from service.errors import Transient


def backoff(retries: int, least: float, most: float, errors: Iterable[Transient] = ()) -> timedelta:
    """Wait as long as the slowest asked for, else exponentially longer with each retry, with jitter.

    `least` and `most` are seconds; nobody who asks gets more than `most`.
    """
    asked = [error.retry_after.total_seconds() for error in errors if error.retry_after is not None]
    if asked:
        return timedelta(seconds=min(max(asked), most))
    upper = min(least * 2 ** min(retries + 1, 30), most)
    return timedelta(seconds=random.uniform(max(least, upper / 2), upper))  # noqa: S311 no secret
