"""Conditions that cause alerts, and the wording of their numbers and times."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from service.formatting import counted, one_line

COUNT_CAP = 10_000

# The time at which each open alert was opened, by cause and key.
OpenAlerts = Mapping[tuple[str, str], datetime]


@dataclass(frozen=True)
class Condition:
    """Something that is wrong now; conditions with the same cause and key are the same alert."""

    cause: str
    key: str
    count: int
    summary: str  # one line, for a title
    detail: str
    email_id: int | None = None


def clean(text: str, longest: int = 300) -> str:
    """Return one bounded line of printable characters; the text may come from outside."""
    return one_line(text, longest)


def number(count: int, noun: str) -> str:
    """Write a count with its noun, and a plus sign at COUNT_CAP."""
    return counted(count, noun, capped=count >= COUNT_CAP)


def clock(time: datetime) -> str:
    """Write a time in UTC, to the minute."""
    return f"{time:%Y-%m-%d %H:%M} UTC"
