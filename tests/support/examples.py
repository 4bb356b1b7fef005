"""The number of examples that hypothesis draws: few in a usual run, ten times as many in `make test-long`."""

import os

_FACTOR = int(os.environ.get("HOLDFAST_EXAMPLES", "1"))


def examples(number: int) -> int:
    """Return `number`, or its multiple by HOLDFAST_EXAMPLES."""
    return number * _FACTOR
