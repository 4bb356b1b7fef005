"""How pages write things: times, sizes, numbers, and a stranger's text without what would make it lie."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from service.queries.verdict import duration

# Control characters, and what turns the direction of writing: `gpj.exe` must not look like `exe.jpg`.
_LIES = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_UNITS = ("kB", "MB", "GB", "TB")


def plain(text: str | None) -> str:
    """Return one line of what can be seen, with U+FFFD for what cannot."""
    return " ".join(_LIES.sub("\ufffd", text or "").split())


def block(text: str) -> str:
    """Do likewise, and keep the lines."""
    return _LIES.sub("\ufffd", text.replace("\r\n", "\n"))


def size(number: float | None) -> str:
    """Write a number of bytes."""
    if number is None:
        return ""
    if number < 1000:
        return f"{number:.0f} B"
    for unit in _UNITS:
        number /= 1000
        if number < 999.5 or unit == _UNITS[-1]:
            break
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def precise(seconds: float | None) -> str:
    """Write a time that was measured."""
    if seconds is None:
        return "\u2013"
    if seconds < 0.9995:
        return f"{1000 * max(seconds, 0):.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def ago(time: datetime) -> str:
    seconds = (datetime.now(UTC) - time).total_seconds()
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def until(time: datetime) -> str:
    seconds = (time - datetime.now(UTC)).total_seconds()
    return "now" if seconds < 1 else f"in {duration(seconds)}"


def stamp(time: datetime) -> str:
    """Write a time out, for people who may sit in any zone."""
    return f"{time.astimezone(UTC):%-d %b %Y, %H:%M:%S} UTC"


def number(count: int, capped: bool = False) -> str:  # noqa: FBT001, FBT002 a filter's argument in a template
    return f"{count:,}{'+' if capped else ''}"


FILTERS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {
        "plain": plain,
        "block": block,
        "size": size,
        "precise": precise,
        "duration": duration,
        "ago": ago,
        "until": until,
        "stamp": stamp,
        "number": number,
    }
)
