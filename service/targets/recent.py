"""What some targets have taken, and another has not yet: from this process they do not get it again."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable

MOST = 10_000


class Taken:
    """Names of targets by what they took, of the newest few; what is forgotten is offered again."""

    def __init__(self) -> None:
        self._names: OrderedDict[Hashable, frozenset[str]] = OrderedDict()

    def by(self, what: Hashable) -> frozenset[str]:
        return self._names.get(what, frozenset())

    def note(self, what: Hashable, names: Iterable[str]) -> None:
        """Note who has it; nobody to be reminded of is forgotten."""
        self._names.pop(what, None)
        if names := frozenset(names):
            self._names[what] = names
        while len(self._names) > MOST:
            self._names.popitem(last=False)
