"""What a look at the record finds, and how it is put into words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from service.formatting import counted, one_line

COUNT_CAP = 10_000

# When each alert that is open was opened, by cause and key.
Open = Mapping[tuple[str, str], datetime]


@dataclass(frozen=True)
class Finding:
    """Something that is the matter now; two of the same cause and key are the same alert."""

    cause: str
    key: str
    count: int
    summary: str  # one line, for a title
    detail: str
    email_id: int | None = None


def clean(text: str, most: int = 300) -> str:
    """Make one bounded line, of characters that show: parts of it may come from outside."""
    return one_line(text, most)


def number(count: int, noun: str) -> str:
    """Say how many, as far as we count."""
    return counted(count, noun, capped=count >= COUNT_CAP)


def clock(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
