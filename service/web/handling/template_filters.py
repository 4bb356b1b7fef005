"""Filters of the templates: how pages write sizes, times and strangers' text."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from service.formatting import duration, number, one_line, printable_lines, readable_line, readable_lines
from service.web.handling.zones import stamp

_UNITS = ("kB", "MB", "GB", "TB")


def plain(text: str | None) -> str:
    """Write a stranger's text as one line of printable characters."""
    return one_line(text or "")


def said(text: str | None) -> str:
    """Write a person's name, address or subject as one line, with its joiners, directions and emoji."""
    return readable_line(text or "")


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
    """Write a measured time, in milliseconds where it is below one second."""
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


FILTERS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {
        "plain": plain,
        "block": printable_lines,
        "said": said,
        "said_lines": readable_lines,
        "size": size,
        "precise": precise,
        "duration": duration,
        "ago": ago,
        "until": until,
        "stamp": stamp,
        "number": number,
    }
)
