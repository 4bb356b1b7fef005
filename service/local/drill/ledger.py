"""The sender's knowledge: each e-mail at Zendesk, each webhook with its answers, and each injected fault."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

# ok: a 2xx; refused: a 4xx; unknown: no answer, or a 5xx; withheld: never sent. The best answer to a webhook counts.
Outcome = Literal["ok", "refused", "unknown", "withheld"]
Person = tuple[str | None, str]  # name and e-mail address


@dataclass(frozen=True)
class SentEmail:
    """An e-mail that is a comment at Zendesk, and everything that has to be kept of it."""

    ticket_id: str
    comment_id: str
    kind: str
    record: bytes  # the comment's JSON
    direction: str
    subject: str  # of the ticket
    sender: Person
    to: Sequence[Person]
    cc: Sequence[Person]
    message_id: str
    text: str
    original: bytes
    files: Sequence[str] = ()  # SHA-256 of each that can be stored, those in the text included
    withheld: int = 0  # files that Zendesk does not give out
    code: str | None = None  # the error code with which its job has to fail


@dataclass
class Webhook:
    """One signed request; `ids` are those that answers named, of e-mails or of quarantined webhooks.

    It is about `email`, about an agent's comment, or about an e-mail that Zendesk's API does not show: `files` and `code`
    are those of the last.
    """

    ticket_id: str
    kind: str
    body: bytes
    files: Sequence[str] = ()  # SHA-256 of each, in order
    code: str | None = None  # the error code with which its job has to fail
    outcome: Outcome = "unknown"
    sends: int = 0
    ids: set[int] = field(default_factory=set)
    sync_code: str | None = None  # the error code with which its sync has to fail
    email: SentEmail | None = None

    @property
    def is_garbage(self) -> bool:
        """Say whether the webhook is no e-mail and belongs into quarantine."""
        return self.kind == "garbage"

    @property
    def is_ignored(self) -> bool:
        """Say whether the webhook announces a comment that is no e-mail."""
        return self.kind == "agent"

    def note(self, outcome: Outcome, row_id: int | None = None) -> None:
        rank = ("withheld", "unknown", "refused", "ok")
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

    # By ticket; further webhooks of a ticket have its id and a number.
    webhooks: dict[str, Webhook] = field(default_factory=dict)
    injections: list[Injection] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    emails: dict[str, dict[str, SentEmail]] = field(default_factory=dict)  # by ticket and comment
    # What Zendesk did with e-mails in the end, by ticket and comment.
    changed: dict[tuple[str, str], str] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        return sum(webhook.outcome == outcome for webhook in self.webhooks.values())

    def add(self, emails: Sequence[SentEmail], webhooks: Sequence[Webhook]) -> None:
        """Add the e-mails and the webhooks of one ticket."""
        for email in emails:
            self.emails.setdefault(email.ticket_id, {})[email.comment_id] = email
        for number, webhook in enumerate(webhooks, 1):
            name = webhook.ticket_id if number == 1 else f"{webhook.ticket_id}.{number}"
            self.webhooks[name] = webhook

    def expected(self, ticket_id: str, comment_id: str | None) -> SentEmail | Webhook | None:
        """Return what an e-mail of this ticket and comment has to be; None if there must be none."""
        if ticket_id in self.emails:
            return self.emails[ticket_id].get(comment_id or "")
        webhook = self.webhooks.get(ticket_id)
        return None if webhook is None or webhook.is_garbage or webhook.is_ignored else webhook
