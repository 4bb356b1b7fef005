"""The plan of a drill: its faults and their order."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from service.local.drill.connection import CHANGES
from service.local.drill.custody import CUSTODY
from service.local.drill.faults import FAULTS

# E-mails that kill or hang every worker that claims them.
POISON = {"poison.kill": "kill", "poison.hang": "hang"}
# An e-mail that a target refuses.
REFUSAL = "target.refusing"
# Webhooks of a share of the tickets that are never sent.
WITHHELD = "webhook.withheld"
# Processes with wrong clocks.
SKEW = "clock.skew"
ALL = (*FAULTS, *CHANGES, *CUSTODY, *POISON, REFUSAL, WITHHELD, SKEW)


@dataclass(frozen=True)
class DrillPlan:
    """A plan; the same seed gives webhooks with the same files, and the same faults in the same order."""

    seconds: float
    rate: float  # webhooks a second
    seed: int
    faults: Sequence[str]

    @property
    def webhooks(self) -> int:
        return max(1, int(self.seconds * self.rate))


def choose(names: str) -> tuple[str, ...]:
    """Return the faults that a list such as `all`, `redis` or `redis.away,web.kill` names. Raises ValueError."""
    chosen: dict[str, None] = {}
    for name in (part.strip() for part in names.split(",")):
        found = [fault for fault in ALL if name in {"all", fault, fault.partition(".")[0]}]
        if not found and name != "none":
            raise ValueError(f"{name!r} is no fault; there are: all, none, {', '.join(ALL)}")
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)


def turns(plan: DrillPlan, part: str, faults: Sequence[str]) -> Iterator[tuple[int, float, str]]:
    """Yield the faults of a part without end: the number of the round, a pause in seconds, and the fault."""
    chance = Random(f"{plan.seed} {part}")  # noqa: S311 the same seed gives the same drill
    longest_pause = min(40, max(1.5, 0.8 * plan.seconds / len(faults)))
    for turn in itertools.count():
        for fault in chance.sample(faults, len(faults)):
            yield turn, chance.uniform(0.3, longest_pause), fault
