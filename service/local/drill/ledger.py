"""The sender's knowledge: each webhook with its files and answers, and each injected fault."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

# ok: a 2xx; refused: a 4xx; unknown: no answer, or a 5xx. The best answer to a webhook counts.
Outcome = Literal["ok", "refused", "unknown"]


@dataclass
class Webhook:
    """One numbered webhook; `ids` are those that answers named, of e-mails or of quarantined webhooks."""

    ticket_id: str
    kind: str
    body: bytes
    files: Sequence[str] = ()  # SHA-256 of each, in order
    code: str | None = None  # the error code with which its job has to fail
    outcome: Outcome = "unknown"
    sends: int = 0
    ids: set[int] = field(default_factory=set)
    sync_code: str | None = None  # the error code with which its sync has to fail

    @property
    def is_garbage(self) -> bool:
        """Say whether the webhook is no e-mail and belongs into quarantine."""
        return self.kind == "garbage"

    def note(self, outcome: Outcome, row_id: int | None = None) -> None:
        rank = ("unknown", "refused", "ok")
        self.outcome = max(self.outcome, outcome, key=rank.index)
        if row_id is not None:
            self.ids.add(row_id)


@dataclass
class Injection:
    """One injection of a fault, in seconds of the wall clock."""

    fault: str
    began: float
    ended: float | None = None
    had_effect: bool = True


@dataclass
class Ledger:
    """Everything that a drill sent and injected; `unexpected` lists answers that break the promise."""

    webhooks: dict[str, Webhook] = field(default_factory=dict)  # by ticket
    injections: list[Injection] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        return sum(webhook.outcome == outcome for webhook in self.webhooks.values())
