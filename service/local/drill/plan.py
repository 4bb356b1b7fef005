"""What a drill does: which faults there are, and in which order they come."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from service.local.drill.faults import FAULTS

# An e-mail that kills, or hangs, every worker that takes it; and a process whose clock is wrong.
POISON = {"poison.kill": "kill", "poison.hang": "hang"}
SKEW = "clock.skew"
# An e-mail that is as good as any, and that a target will not take.
REFUSAL = "target.refusing"
ALL = (*FAULTS, *POISON, REFUSAL, SKEW)


@dataclass(frozen=True)
class DrillPlan:
    """What to do; the same seed gives webhooks with the same files, and the same faults in the same order."""

    seconds: float
    rate: float  # webhooks a second
    seed: int
    faults: Sequence[str]

    @property
    def webhooks(self) -> int:
        return max(1, int(self.seconds * self.rate))


def choose(words: str) -> tuple[str, ...]:
    """Return the faults that words such as `all`, `redis` or `redis.away,web.kill` name; raises ValueError."""
    chosen: dict[str, None] = {}
    for word in (part.strip() for part in words.split(",")):
        found = [name for name in ALL if word in {"all", name, name.partition(".")[0]}]
        if not found and word != "none":
            raise ValueError(f"{word!r} is no fault; there are: all, none, {', '.join(ALL)}")
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)


def turns(plan: DrillPlan, part: str, faults: Sequence[str]) -> Iterator[tuple[int, float, str]]:
    """Name the faults of a part for ever, round by round, each with the number of its round and a pause before it."""
    chance = Random(f"{plan.seed} {part}")  # noqa: S311 the same drill again
    most = min(40, max(1.5, 0.8 * plan.seconds / len(faults)))
    for turn in itertools.count():
        for fault in chance.sample(faults, len(faults)):
            yield turn, chance.uniform(0.3, most), fault
