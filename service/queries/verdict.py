"""The verdict: in a sentence or two, whether every e-mail is safe, what needs a person, and what waits."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.formatting import duration, number

# What waits for no longer than that is on its way.
MOMENT_SECONDS = 20.0


@dataclass(frozen=True)
class Told:
    """What it is made of; numbers as they are shown, nothing where there is none."""

    last_day: str
    not_safe: str
    need_you: str
    others: Sequence[str]  # sentences
    waits: float | None  # seconds
    unfinished: str
    sync_waits: float | None = None  # seconds
    unread: str = ""  # requests of the last day that are in quarantine


def say(told: Told) -> str:
    """Say it all."""
    needs = [f"{told.need_you} need{'s' if told.need_you == '1' else ''} you."] if told.need_you else []
    needs += told.others
    day = _with_unread(_day(told.last_day, told.not_safe), told.unread)
    return " ".join((day, *(needs or ["None needs you."]), _waits(told)))


def of_syncs(failed: str) -> Sequence[str]:
    """Say what is the matter with syncs, if there is; the e-mails themselves are safe."""
    return [f"{failed} could not be synced."] if failed else []


def shown(count: int, capped: bool) -> str:  # noqa: FBT001 each count has its own
    """Write a count; nothing for none."""
    return number(count, capped) if count else ""


def _waits(told: Told) -> str:
    said = [f"Oldest waiting: {duration(told.waits)}."] if told.waits is not None else []
    if told.sync_waits is not None and told.sync_waits > MOMENT_SECONDS:
        said.append(f"Oldest waiting for its sync: {duration(told.sync_waits)}.")
    if not said:
        said.append(f"{told.unfinished} in work." if told.unfinished else "Nothing waits.")
    return " ".join(said)


def _with_unread(day: str, unread: str) -> str:
    """Add the requests that could not be read: each may be an e-mail, and is counted as none."""
    if not unread:
        return day
    return f"{day.removesuffix('.')}; {unread} request{'' if unread == '1' else 's'} could not be read."


def _day(received: str, not_safe: str) -> str:
    if not received:
        return "No e-mail came in the last 24 hours."
    if received == "1":
        return f"The one e-mail of the last 24 hours is {'not ' if not_safe else ''}safe."
    if not not_safe:
        return f"All {received} e-mails of the last 24 hours are safe."
    return f"{not_safe} of {received} e-mails of the last 24 hours {'is' if not_safe == '1' else 'are'} not safe yet."
