"""The timeline of an e-mail: intake, attempts, actions, sync, and its current state."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

from service.queries.views import ActionView, AttemptView, EmailDetail

Tone = Literal["plain", "busy", "good", "bad", "warn"]

_OUTCOMES: dict[str, tuple[str, Tone]] = {
    "completed": ("completed", "good"),
    "released": ("failed; another follows", "warn"),
    "failed": ("failed", "bad"),
    "handed_back": ("handed back at the worker's shutdown", "plain"),
    "abandoned": ("abandoned, the worker died", "warn"),
}
_ACTIONS = {
    "retry": "Retried",
    "replay": "Replayed from quarantine",
    "correct": "Replayed with a corrected body",
    "replay_ignored": "Replayed from the ignored events",
    "sync": "Sync started again",
    "dismiss": "Dismissed",
    "undismiss": "Not dismissed any more",
}
_OVER = {"completed", "failed"}


@dataclass(frozen=True)
class Event:
    """An event; `seconds` is its own duration, `pause` the time since the end of the event before."""

    at: datetime
    title: str
    tone: Tone = "plain"
    seconds: float | None = None
    by: str = ""
    code: str | None = None
    error: str | None = None
    reason: str | None = None  # of a dismissal
    pause: float | None = None


@dataclass(frozen=True)
class CurrentState:
    """The state of a job or a sync, and the time at which it ends at the latest."""

    title: str
    tone: Tone
    until: datetime | None = None


def events(email: EmailDetail) -> Sequence[Event]:
    """Return all events, oldest first."""
    found = sorted(_events(email), key=lambda event: event.at)
    rest = [_with_pause(before, event) for before, event in pairwise(found)]
    return [*found[:1], *rest]


def state_of(email: EmailDetail) -> CurrentState:
    """Describe the state of the job."""
    match email.processing_status:
        case "completed":
            return CurrentState("Completed: all files are stored.", "good")
        case "failed" if email.dismissal:
            return CurrentState("Failed, and dismissed.", "plain")
        case "failed":
            return CurrentState("Failed: needs attention.", "bad")
        case "processing":
            return CurrentState(
                f"Attempt {email.attempt_number} is running; its lease ends", "busy", email.lease_until
            )
        case "queued" if email.retry_count or email.error_code:
            return CurrentState(f"Waiting for attempt {email.attempt_number + 1}, due", "warn", email.due_at)
        case status:
            return CurrentState(
                f"{status.capitalize()}, waiting for a worker; enqueued again", "plain", email.due_at
            )


def sync_state_of(email: EmailDetail, *, has_target: bool) -> CurrentState | None:
    """Describe the state of the sync; None if there is no sync and no target."""
    is_over = email.processing_status in _OVER
    match email.sync_status:
        case "not_applicable":
            return (
                CurrentState("The job ended when there was no target.", "plain")
                if has_target and is_over
                else None
            )
        case "synced":
            return CurrentState(
                "The target is up to date." if is_over else "The target has the previous version.", "good"
            )
        case "failed" if email.dismissal:
            return CurrentState("Could not be synced, and dismissed.", "plain")
        case "failed":
            return CurrentState("Could not be synced: needs attention.", "bad")
        case _:
            return _pending(email, is_over=is_over, has_target=has_target)


def _pending(email: EmailDetail, *, is_over: bool, has_target: bool) -> CurrentState:
    if not is_over:
        return CurrentState("Begins when the job has ended.", "plain")
    if not has_target:
        return CurrentState("There is no target: SYNC_URL is not set.", "warn")
    if email.sync_error_code:
        return CurrentState("Next attempt at the latest", "warn", email.sync_due_at)
    return CurrentState("Waiting for a worker, or in progress.", "busy")


def _events(email: EmailDetail) -> Iterator[Event]:
    yield Event(email.received_at, "Received and saved")
    for attempt in email.attempts:
        yield _attempt(attempt)
    for action in email.actions:
        yield _action(action)
    if email.synced_at:
        yield Event(email.synced_at, "Synced", "good")
    if email.sync_status == "failed":  # since `sync_due_at`: it is not due any more
        yield Event(
            email.sync_due_at, "Sync failed", "bad", code=email.sync_error_code, error=email.sync_error
        )


def _attempt(attempt: AttemptView) -> Event:
    words, tone = _OUTCOMES.get(attempt.outcome or "", ("is running", "busy"))
    if attempt.outcome == "handed_back" and attempt.error_code:
        words, tone = "handed back, without using a retry", "warn"
    ended = attempt.finished_at
    return Event(
        attempt.started_at,
        f"Attempt {attempt.number} {words}" if attempt.number > 0 else f"Attempt of a merged e-mail {words}",
        tone,
        seconds=(ended - attempt.started_at).total_seconds() if ended else None,
        by=attempt.worker,
        code=attempt.error_code,
        error=attempt.error,
    )


def _action(action: ActionView) -> Event:
    title = _ACTIONS.get(action.action, action.action.replace("_", " ").capitalize())
    title = f"{title} (bulk)" if action.bulk_retry_id else title
    return Event(action.at, title, by=action.actor, reason=action.reason)


def _with_pause(before: Event, event: Event) -> Event:
    pause = (event.at - before.at).total_seconds() - (before.seconds or 0)
    return Event(**{**vars(event), "pause": max(pause, 0)})
