"""What happened to an e-mail, in order: it came, attempts, what people did, and what it waits for now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

from service.queries.views import ActionView, AttemptView, EmailDetail

Tone = Literal["plain", "busy", "good", "bad", "warn"]

_OUTCOMES: dict[str, tuple[str, Tone]] = {
    "completed": ("completed", "good"),
    "released": ("gave up for now", "warn"),
    "failed": ("failed", "bad"),
    "handed_back": ("handed back, the worker was told to end", "plain"),
    "abandoned": ("abandoned, the worker fell silent", "warn"),
}
_ACTIONS = {"retry": "Retried", "replay": "Replayed from quarantine"}


@dataclass(frozen=True)
class Event:
    """Something that happened; `seconds` is how long it took itself, `pause` the time since what was before."""

    at: datetime
    title: str
    tone: Tone = "plain"
    seconds: float | None = None
    by: str = ""
    code: str | None = None
    error: str | None = None
    pause: float | None = None


@dataclass(frozen=True)
class Now:
    """Where it stands, and until when at most it waits there."""

    title: str
    tone: Tone
    until: datetime | None = None


def events(email: EmailDetail) -> Sequence[Event]:
    """Return all that happened, oldest first."""
    found = sorted(_happened(email), key=lambda event: event.at)
    rest = [_after(before, event) for before, event in pairwise(found)]
    return [*found[:1], *rest]


def now(email: EmailDetail) -> Now:
    """Say what is to come."""
    match email.processing_status:
        case "completed":
            return Now("Completed: every file is stored.", "good")
        case "failed":
            return Now("Failed: it waits for you.", "bad")
        case "processing":
            return Now(
                f"Attempt {email.attempt_number} is running; its lease ends", "busy", email.lease_until
            )
        case "queued" if email.retry_count:
            return Now(f"Waits for attempt {email.attempt_number + 1}, due", "warn", email.due_at)
        case status:
            return Now(
                f"{status.capitalize()}: waits for a worker, which is called again", "plain", email.due_at
            )


def _happened(email: EmailDetail) -> Iterator[Event]:
    yield Event(email.received_at, "Received and committed")
    for attempt in email.attempts:
        yield _attempt(attempt)
    for action in email.actions:
        yield _action(action)


def _attempt(attempt: AttemptView) -> Event:
    words, tone = _OUTCOMES.get(attempt.outcome or "", ("is running", "busy"))
    ended = attempt.finished_at
    return Event(
        attempt.started_at,
        f"Attempt {attempt.number} {words}",
        tone,
        seconds=(ended - attempt.started_at).total_seconds() if ended else None,
        by=attempt.worker,
        code=attempt.error_code,
        error=attempt.error,
    )


def _action(action: ActionView) -> Event:
    title = _ACTIONS.get(action.action, action.action.replace("_", " ").capitalize())
    return Event(action.at, f"{title} with others" if action.bulk_retry_id else title, by=action.actor)


def _after(before: Event, event: Event) -> Event:
    pause = (event.at - before.at).total_seconds() - (before.seconds or 0)
    return Event(**{**vars(event), "pause": max(pause, 0)})
