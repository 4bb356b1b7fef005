"""How long to wait before another attempt."""

import random
from collections.abc import Iterable
from datetime import timedelta

from service.errors import Transient


def backoff(retries: int, least: float, most: float, errors: Iterable[Transient] = ()) -> timedelta:
    """Wait exponentially longer with each retry, with jitter, and no shorter than the slowest asked for.

    `least` and `most` are seconds; nobody who asks gets more than `most`.
    """
    asked = [error.retry_after.total_seconds() for error in errors if error.retry_after is not None]
    upper = min(least * 2 ** min(retries + 1, 30), most)
    # Who asks for a second each time would else use up in minutes what is meant for days.
    pause = random.uniform(max(least, upper / 2), upper)  # noqa: S311 no secret
    return timedelta(seconds=min(max([pause, *asked]), most))
