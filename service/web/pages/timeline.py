"""What happened to an e-mail, in order: it came, attempts, what people did, its sync, and what it waits for now."""

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
_ACTIONS = {
    "retry": "Retried",
    "replay": "Replayed from quarantine",
    "replay_ignored": "Replayed from the ignored events",
    "sync": "Sync begun again",
}
_OVER = {"completed", "failed"}


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
class CurrentState:
    """Where it stands, and until when at most it waits there."""

    title: str
    tone: Tone
    until: datetime | None = None


def events(email: EmailDetail) -> Sequence[Event]:
    """Return all that happened, oldest first."""
    found = sorted(_happened(email), key=lambda event: event.at)
    rest = [_after(before, event) for before, event in pairwise(found)]
    return [*found[:1], *rest]


def state_of(email: EmailDetail) -> CurrentState:
    """Say what is to come."""
    match email.processing_status:
        case "completed":
            return CurrentState("Completed: every file is stored.", "good")
        case "failed":
            return CurrentState("Failed: it waits for you.", "bad")
        case "processing":
            return CurrentState(
                f"Attempt {email.attempt_number} is running; its lease ends", "busy", email.lease_until
            )
        case "queued" if email.retry_count or email.error_code:
            return CurrentState(f"Waits for attempt {email.attempt_number + 1}, due", "warn", email.due_at)
        case status:
            return CurrentState(
                f"{status.capitalize()}: waits for a worker, which is called again", "plain", email.due_at
            )


def sync_state_of(email: EmailDetail, *, has_target: bool) -> CurrentState | None:
    """Say what is to come of its sync; None where it has none, and could have none."""
    is_over = email.processing_status in _OVER
    match email.sync_status:
        case "not_applicable":
            return (
                CurrentState("Its job ended when there was no target.", "plain")
                if has_target and is_over
                else None
            )
        case "synced":
            return CurrentState(
                "The target has all of it." if is_over else "The target has it as it was before.", "good"
            )
        case "failed":
            return CurrentState("It could not be synced: it waits for you.", "bad")
        case _:
            return _pending(email, is_over=is_over, has_target=has_target)


def _pending(email: EmailDetail, *, is_over: bool, has_target: bool) -> CurrentState:
    if not is_over:
        return CurrentState("Begins when the job has ended.", "plain")
    if not has_target:
        return CurrentState("There is no target any more: SYNC_URL is not set.", "warn")
    if email.sync_error_code:
        return CurrentState("Tried again, at the latest", "warn", email.sync_due_at)
    return CurrentState("Waits for a worker, or is carried over just now.", "busy")


def _happened(email: EmailDetail) -> Iterator[Event]:
    yield Event(email.received_at, "Received and committed")
    for attempt in email.attempts:
        yield _attempt(attempt)
    for action in email.actions:
        yield _action(action)
    if email.synced_at:
        yield Event(email.synced_at, "Synced", "good")
    if email.sync_status == "failed":  # and was due no more from then on
        yield Event(
            email.sync_due_at, "Sync failed", "bad", code=email.sync_error_code, error=email.sync_error
        )


def _attempt(attempt: AttemptView) -> Event:
    words, tone = _OUTCOMES.get(attempt.outcome or "", ("is running", "busy"))
    if attempt.outcome == "handed_back" and attempt.error_code:
        words, tone = "gave the job back without using up a retry", "warn"
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
