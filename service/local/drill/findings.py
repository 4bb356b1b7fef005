"""What an audit found."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]  # of a table


@dataclass
class Findings:
    """What is wrong, by what it means, and figures to show."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong_bytes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # any other invariant
    emails: Counter[str] = field(default_factory=Counter)  # by status
    failed: Counter[str] = field(default_factory=Counter)  # by code
    outcomes: Counter[str] = field(default_factory=Counter)  # of attempts
    quarantined: int = 0
    unacknowledged: int = 0  # on record though nobody was told so
    files: int = 0
    objects: int = 0
    object_bytes: int = 0
    longest_wait: float = 0  # seconds from the webhook to the end of its job
    recoveries: Mapping[str, float] = field(default_factory=dict)  # the longest of each fault, in seconds
    synced: Counter[str] = field(default_factory=Counter)  # by status of the sync
    sync_failed: Counter[str] = field(default_factory=Counter)  # by code
    documents: int | None = None  # in the collection, equal; None where there is no collection
    received: int = 0  # e-mails that the receiver has, equal
    messages: int = 0  # that it took, repetitions too
    longest_sync: float = 0  # seconds from the end of a job to that of its sync
    sync_recoveries: Mapping[str, float] = field(default_factory=dict)  # as above, of faults of the targets
    # With a target away, and otherwise: how many e-mails were completed, and the median of their seconds.
    waits: Mapping[bool, tuple[int, float]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong_bytes or self.broken)
