"""The verdict: one or two sentences on whether e-mails failed, need attention or wait."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.formatting import duration, number

# A shorter wait is part of normal operation.
MOMENT_SECONDS = 20.0


@dataclass(frozen=True)
class VerdictFacts:
    """The parts of a verdict; counts are as displayed, and empty for zero."""

    last_day: str  # e-mails received in the last 24 hours
    not_safe: str  # of those: failed, and all that wait if one is late
    need_you: str
    others: Sequence[str]  # further sentences
    waits: float | None  # seconds
    unfinished: str
    sync_waits: float | None = None  # seconds
    unread: str = ""  # webhooks of the last day in quarantine
    is_late: bool = False
    has_dismissed: bool = False  # e-mails of the last 24 hours
    complete: str = ""  # whether every e-mail that Zendesk has is kept


def verdict_of(facts: VerdictFacts) -> str:
    """Write the verdict."""
    needs = (
        [f"{facts.need_you} need{'s' if facts.need_you == '1' else ''} attention."] if facts.need_you else []
    )
    needs += facts.others
    first = (_with_unread(_day(facts), facts.unread), facts.complete)
    return " ".join((*filter(None, first), *(needs or ["None needs attention."]), _waits(facts)))


def sync_sentences(failed: str) -> Sequence[str]:
    """Return the sentence about failed syncs, if there are any."""
    return [f"{failed} could not be synced."] if failed else []


def shown(count: int, capped: bool) -> str:  # noqa: FBT001 each count has its own
    """Write a count; zero as an empty text."""
    return number(count, capped) if count else ""


def _waits(facts: VerdictFacts) -> str:
    sentences = [f"Oldest waiting: {duration(facts.waits)}."] if facts.waits is not None else []
    if facts.sync_waits is not None and facts.sync_waits > MOMENT_SECONDS:
        sentences.append(f"Oldest pending sync: {duration(facts.sync_waits)}.")
    if not sentences:
        sentences.append(f"{facts.unfinished} in progress." if facts.unfinished else "Nothing waiting.")
    return " ".join(sentences)


def _with_unread(day: str, unread: str) -> str:
    """Add the webhooks in quarantine: each may be an e-mail, and none is counted as one."""
    if not unread:
        return day
    return f"{day.removesuffix('.')}; {unread} webhook{'' if unread == '1' else 's'} could not be parsed."


def _day(facts: VerdictFacts) -> str:
    received, not_safe = facts.last_day, facts.not_safe
    if not received:
        return "No e-mail came in the last 24 hours."
    # Unfinished e-mails are saved in Postgres, but their files are not stored yet.
    state = "saved" if facts.unfinished else "stored"
    if facts.has_dismissed:
        state = "dismissed" if received == "1" else f"{state} or dismissed"
    if received == "1":
        problem = "is failed or late" if facts.is_late else "failed"
        return f"The one e-mail of the last 24 hours {problem if not_safe else f'is {state}'}."
    if not not_safe:
        return f"All {received} e-mails of the last 24 hours are {state}."
    problem = (
        ("is failed or late" if not_safe == "1" else "are failed or late") if facts.is_late else "failed"
    )
    if not_safe == received:
        return f"All {received} e-mails of the last 24 hours {problem}."
    return f"{not_safe} of {received} e-mails of the last 24 hours {problem}; all others are {state}."
