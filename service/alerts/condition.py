"""Conditions that cause alerts, and the wording of their numbers and times."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

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


def clean(text: str, most: int = 300) -> str:
    """Return one bounded line of printable characters; the text may come from outside."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    line = " ".join(shown.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def number(count: int, noun: str) -> str:
    """Write a count with its noun; COUNT_CAP and more as `or more`."""
    return f"{count:,}{' or more' if count >= COUNT_CAP else ''} {noun}{'' if count == 1 else 's'}"


def clock(time: datetime) -> str:
    """Write a time in UTC, to the minute."""
    return f"{time:%Y-%m-%d %H:%M} UTC"


def duration(time: timedelta) -> str:
    """Write a duration in its two largest units."""
    minutes = int(time.total_seconds() // 60)
    if minutes < 2:
        return f"{int(time.total_seconds())} s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join([f"{count} {unit}" for count, unit in parts if count][:2])
