"""How many examples hypothesis draws: few in each run, since there are many runs; ten times as many in `make test-long`."""

import os

_FACTOR = int(os.environ.get("HOLDFAST_EXAMPLES", "1"))


def examples(number: int) -> int:
    """Return the number of examples to draw where a usual run draws `number`."""
    return number * _FACTOR
