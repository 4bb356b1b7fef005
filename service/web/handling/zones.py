"""The zone of a page's times: that of the reader, who chose it or whose browser told it; UTC otherwise."""

import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from aiohttp import web

CHOSEN, TOLD = "holdfast_zone", "holdfast_browser_zone"  # cookies; the script writes the second one
_UTC = "UTC"
# The zone of the page that is being drawn: jinja's filters know nothing of the request.
_ZONE: ContextVar[tzinfo] = ContextVar("zone", default=UTC)

# Times of our own templates, as `pieces.html` and `chart.html` write them.
_STAMP = re.compile(r'(<time datetime="([^"]+)" data-stamp>)[^<]*')
_TITLE = re.compile(r'(<time datetime="([^"]+)" title=")[^"]*')
_HOUR = re.compile(r'( data-hour="([^"]+)">)[^<]*')


def named_by(request: web.Request) -> str:
    """Return the name of the reader's zone, as the cookies have it; "" without one."""
    return request.cookies.get(CHOSEN) or request.cookies.get(TOLD) or ""


@cache
def zones() -> Sequence[str]:
    """Return the names of all zones. The first call reads the disk: make it in a thread."""
    return [_UTC, *sorted(name for name in available_timezones() if _is_place(name))]


def enter(name: str) -> None:
    """Draw times in this zone from now on, in this context; in UTC if there is no such zone. It may read the disk."""
    _ZONE.set(UTC if name == _UTC or name not in zones() else ZoneInfo(name))


def current() -> str:
    """Return the name of the zone in which times are drawn."""
    return str(_ZONE.get())


def stamp(time: datetime) -> str:
    """Write a time in the reader's zone, to the second, with the zone."""
    return f"{_local(time):%-d %b %Y, %H:%M:%S %Z}"


def redrawn(html: str) -> str:
    """Write the times of a part that was drawn for all readers in the zone of this one."""
    if _ZONE.get() is UTC:
        return html
    html = _STAMP.sub(_with(stamp), html)
    html = _TITLE.sub(_with(stamp), html)
    return _HOUR.sub(_with(_hour), html)


def _with(write: Callable[[datetime], str]) -> Callable[[re.Match[str]], str]:
    return lambda found: found[1] + write(datetime.fromisoformat(found[2]))


def _hour(time: datetime) -> str:
    return f"{_local(time):%H:%M}"


def _local(time: datetime) -> datetime:
    """Return a time in the reader's zone; a sender's date may be the last day of all, and then it stays in UTC."""
    try:
        return time.astimezone(_ZONE.get())
    except OverflowError:
        return time.astimezone(UTC)


def _is_place(name: str) -> bool:
    return "/" in name and not name.startswith(("Etc/", "SystemV/", "US/", "posix/", "right/"))
