"""What a run finds, and what it has seen so far."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from service.postgres.operation_tables import DIFFERENCES

# Findings of one run that are saved; more are only counted.
MAX_FINDINGS = 2_000
Fix = Literal["nothing", "syncs", "all"]
MAX_KEY = 1_000  # characters of a key, which others may have made

# Is told now and then how far it has come, in hundredths, and what was seen so far.
ReportProgress = Callable[[int, "Totals"], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as Postgres has it; `repair` says what was done about it."""

    kind: str
    key: str
    email_id: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    repair: str | None = None
    found_key: Any = None  # of a document, as it stands in the target

    @property
    def row_key(self) -> str:
        """Give the key as a row has it; no text column takes a NUL."""
        return self.key.encode(errors="replace").decode().replace("\0", "\ufffd")[:MAX_KEY]

    def row(self) -> tuple[object, ...]:
        """Give what a row has of it."""
        return self.kind, self.email_id, self.row_key, json.dumps(self.detail, default=str), self.repair


@dataclass(slots=True)
class Totals:
    """How much was looked at, and how much of it was found to differ, or was put right."""

    emails: int = 0
    documents: int = 0
    objects: int = 0
    bytes: int = 0
    unfinished: int = 0
    overdue: int = 0
    not_synced: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    kept: int = 0

    def add(self, found: list[Finding]) -> list[Finding]:
        """Count them, and return those of which there is room to keep more than the count."""
        self.counts.update(each.kind for each in found)
        self.repaired.update(each.kind for each in found if each.repair)
        kept = found[: max(0, MAX_FINDINGS - self.kept)]
        self.kept += len(kept)
        return kept

    @property
    def open(self) -> int:
        """How many differences there are that were not put right."""
        return sum(self.counts[kind] - self.repaired[kind] for kind in DIFFERENCES)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that we have begun, and what we have seen."""

    id: int
    fix: Fix
    since: datetime | None = None
    part: int | None = None
    force: bool = False  # put right also what looks like another place
    totals: Totals = field(default_factory=Totals)
