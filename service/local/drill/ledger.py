"""What the sender knows: each webhook, what its files were, and what it was told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

# ok: a 2xx; refused: a 4xx; unknown: no answer, or one that promises nothing. The best of several counts.
Outcome = Literal["ok", "refused", "unknown"]


@dataclass
class Webhook:
    """One numbered webhook; `numbers` are the ids that we were told, of e-mails or of quarantined webhooks."""

    ticket_id: str
    kind: str
    body: bytes
    files: Sequence[str] = ()  # the SHA-256 of each, in order
    code: str | None = None  # with which it has to fail, if it has to
    outcome: Outcome = "unknown"
    sends: int = 0
    numbers: set[int] = field(default_factory=set)
    sync_code: str | None = None  # with which its sync has to fail, likewise

    @property
    def is_garbage(self) -> bool:
        """It is no e-mail, and belongs into quarantine."""
        return self.kind == "garbage"

    def note(self, outcome: Outcome, number: int | None = None) -> None:
        rank = ("unknown", "refused", "ok")
        self.outcome = max(self.outcome, outcome, key=rank.index)
        if number is not None:
            self.numbers.add(number)


@dataclass
class Injury:
    """A fault, in seconds of the wall clock; `hurt` unless there was nothing to do harm to."""

    fault: str
    began: float
    ended: float | None = None
    hurt: bool = True


@dataclass
class Ledger:
    """All of a drill; `unexpected` has answers that no receiver may give."""

    webhooks: dict[str, Webhook] = field(default_factory=dict)  # by ticket
    injuries: list[Injury] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        return sum(webhook.outcome == outcome for webhook in self.webhooks.values())
