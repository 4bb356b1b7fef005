"""Charts of the last hours, as places on a canvas: templates draw them, and nothing here knows of HTML.

Across, places are percents, so that a chart is as wide as its page and its letters keep their size; down, pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil, log10

from service.queries.history import Hour
from service.web.handling.template_filters import precise

HEIGHT = 160.0
_GAP = 0.22  # of a column
_LEAST = 2.0  # what is one of thousands is seen all the same
_LABEL_EVERY = 4  # hours
_LEAST_SECONDS = 0.01  # at the top of an axis


@dataclass(frozen=True)
class BarPart:
    """A piece of a bar."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """An hour."""

    x: float
    width: float
    hour: Hour
    parts: Sequence[BarPart] = ()


@dataclass(frozen=True)
class Segment:
    """A line from one hour to the next; between the same two points where an hour stands alone."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Label:
    """A time below the chart."""

    x: float
    time: datetime


@dataclass(frozen=True)
class Chart:
    """What is to be drawn; `scale` has the labels at top, middle and bottom."""

    columns: Sequence[Bar]
    labels: Sequence[Label]
    scale: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Segment]]] = ()
    height: float = HEIGHT


def numbers(hours: Sequence[Hour]) -> Chart:
    """Draw how many e-mails came in each hour, and where they stand."""
    top = _round_up(max((hour.received for hour in hours), default=0))
    columns = [
        Bar(column.x, column.width, column.hour, _parts(column.hour, top)) for column in _columns(hours)
    ]
    scale = [f"{top:,.0f}", f"{top / 2:,.0f}" if top > 1 else "", "0"]
    return Chart(columns, _labels(hours), scale)


def times(hours: Sequence[Hour], what: str) -> Chart:
    """Draw p50 and p95 of `queue` or `processing` seconds."""
    names = ("p50", "p95")
    series = {name: [getattr(hour, f"{what}_{name}") for hour in hours] for name in names}
    top = _round_up_time(max((value for each in series.values() for value in each if value), default=0.0))
    lines = [(name, _strokes(series[name], top)) for name in reversed(names)]
    return Chart(_columns(hours), _labels(hours), [precise(top), precise(top / 2), "0"], lines)


def _columns(hours: Sequence[Hour]) -> Sequence[Bar]:
    step = 100 / max(len(hours), 1)
    width = _short(step * (1 - _GAP))
    return [Bar(_short(step * (place + _GAP / 2)), width, hour) for place, hour in enumerate(hours)]


def _labels(hours: Sequence[Hour]) -> Sequence[Label]:
    step = 100 / max(len(hours), 1)
    return [
        Label(_short(step * (place + 0.5)), hour.start)
        for place, hour in enumerate(hours)
        if place and hour.start.hour % _LABEL_EVERY == 0
    ]


def _parts(hour: Hour, top: float) -> Sequence[BarPart]:
    """Stack what is well below what is not, each at least so high that it is seen."""
    parts, y = [], HEIGHT
    for kind in ("completed", "waiting", "failed"):
        if number := getattr(hour, kind):
            height = max(_LEAST, HEIGHT * number / top)
            y = max(0.0, y - height)
            parts.append(BarPart(kind, _short(y), _short(height)))
    return parts


def _strokes(values: Sequence[float | None], top: float) -> Sequence[Segment]:
    step = 100 / max(len(values), 1)
    points = [
        None if value is None else (_short(step * (place + 0.5)), _short(HEIGHT * (1 - value / top)))
        for place, value in enumerate(values)
    ]
    strokes = []
    for before, here, after in zip([None, *points], points, [*points[1:], None], strict=False):
        if here and after:
            strokes.append(Segment(*here, *after))
        elif here and not before:
            strokes.append(Segment(*here, *here))
    return strokes


def _round_up(number: float) -> float:
    """Return a number that reads well, and of which half does too."""
    if number <= 2:
        return max(number, 1)
    power = 10.0 ** int(log10(number))
    steps = (1, 2, 4, 6, 8, 10) if power == 1 else (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10)
    return next(round(step * power) for step in steps if step * power >= number)


def _round_up_time(seconds: float) -> float:
    """Likewise, where what stands on the axis may be minutes."""
    if seconds >= 60:
        unit = 60 if seconds < 3600 else 3600
        return unit * _round_up(ceil(seconds / unit))
    seconds = max(seconds, _LEAST_SECONDS)
    power = 10.0 ** ceil(log10(seconds) - 1)
    return next(
        round(step * power, 6) for step in (0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10) if step * power >= seconds
    )


def _short(number: float) -> float:
    return round(number, 3)
