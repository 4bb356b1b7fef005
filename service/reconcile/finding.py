"""Values of a run: its findings, its totals, and the run itself."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from service.postgres.reconciliation_tables import DIFFERENCES

# Findings of one run that are saved; more are only counted.
MAX_FINDINGS = 2_000
Fix = Literal["nothing", "syncs", "all"]
MAX_KEY = 1_000  # characters; other programs may choose the key

# Called with the progress in percent and the totals so far.
ReportProgress = Callable[[int, "Totals"], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference from Postgres, or a remark; `repair` tells which repair has begun."""

    kind: str
    key: str
    email_id: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    repair: str | None = None
    found_key: Any = None  # the key of a document as the target has it

    @property
    def row_key(self) -> str:
        """Return the key as saved: a text column cannot hold a NUL."""
        return self.key.encode(errors="replace").decode().replace("\0", "\ufffd")[:MAX_KEY]

    def row(self) -> tuple[object, ...]:
        """Return the values of its row."""
        return self.kind, self.email_id, self.row_key, json.dumps(self.detail, default=str), self.repair


@dataclass(slots=True)
class Totals:
    """The numbers of compared items, of findings by kind, and of repairs begun by kind."""

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
        """Count findings, and return those that are to be saved, up to MAX_FINDINGS in all."""
        self.counts.update(each.kind for each in found)
        self.repaired.update(each.kind for each in found if each.repair)
        kept = found[: max(0, MAX_FINDINGS - self.kept)]
        self.kept += len(kept)
        return kept

    @property
    def open(self) -> int:
        """The number of differences without a repair."""
        return sum(self.counts[kind] - self.repaired[kind] for kind in DIFFERENCES)


@dataclass(frozen=True, slots=True)
class Run:
    """A reconciliation of this process, and its totals so far."""

    id: int
    fix: Fix
    since: datetime | None = None
    part: int | None = None
    force: bool = False  # repair even if the target or the storage looks like another one
    totals: Totals = field(default_factory=Totals)
