"""Charts of the last hours, as coordinates; templates draw them as SVG.

Horizontal coordinates are percentages, so that a chart is as wide as its page at a constant font size. Vertical ones
are pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil, log10

from service.queries.history import Hour
from service.web.handling.template_filters import precise

HEIGHT = 160.0
_GAP = 0.22  # share of an hour's width
_LEAST_HEIGHT = 2.0  # pixels: one of thousands is still visible
_LABEL_EVERY = 4  # hours
_FEW = 6  # so few values of a line have a mark each: alone, a line of length zero is a dot of two pixels
FOLDED_BELOW = 3  # hours with e-mails: with fewer, a chart says nothing that the numbers do not
_LEAST_SECONDS = 0.01  # the smallest top of an axis


@dataclass(frozen=True)
class BarPart:
    """A coloured part of a bar."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """The bar of an hour."""

    x: float
    width: float
    hour: Hour
    parts: Sequence[BarPart] = ()


@dataclass(frozen=True)
class Segment:
    """A line from one hour to the next; an hour without neighbours has a line of length zero."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Point:
    """The mark of a value of a line."""

    x: float
    y: float


@dataclass(frozen=True)
class Label:
    """The label of an hour, below the chart."""

    x: float
    time: datetime


@dataclass(frozen=True)
class Chart:
    """All coordinates of a chart; `scale` has the labels at top, middle and bottom."""

    columns: Sequence[Bar]
    labels: Sequence[Label]
    scale: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Segment]]] = ()
    points: Sequence[tuple[str, Sequence[Point]]] = ()
    height: float = HEIGHT


def numbers(hours: Sequence[Hour]) -> Chart:
    """Chart the number of e-mails of each hour, by their state now."""
    top = _round_up(max((hour.received for hour in hours), default=0))
    columns = [Bar(column.x, column.width, column.hour, _parts(column.hour, top)) for column in _bars(hours)]
    scale = [f"{top:,.0f}", f"{top / 2:,.0f}" if top > 1 else "", "0"]
    return Chart(columns, _labels(hours), scale)


def times(hours: Sequence[Hour], what: str) -> Chart:
    """Chart p50 and p95 of `queue` or `processing` seconds."""
    names = ("p50", "p95")
    series = {name: [getattr(hour, f"{what}_{name}") for hour in hours] for name in names}
    top = _round_up_time(max((value for each in series.values() for value in each if value), default=0.0))
    lines = [(name, _segments(series[name], top)) for name in reversed(names)]
    few = [(name, _points(series[name], top)) for name in reversed(names)]
    marked = [(name, points) for name, points in few if len(points) <= _FEW]
    return Chart(_bars(hours), _labels(hours), [precise(top), precise(top / 2), "0"], lines, marked)


def is_folded(hours: Sequence[Hour]) -> bool:
    """Tell whether the charts have too few hours with e-mails to be open at first."""
    return sum(hour.received > 0 for hour in hours) < FOLDED_BELOW


def _bars(hours: Sequence[Hour]) -> Sequence[Bar]:
    step = 100 / max(len(hours), 1)
    width = _short(step * (1 - _GAP))
    return [Bar(_short(step * (index + _GAP / 2)), width, hour) for index, hour in enumerate(hours)]


def _labels(hours: Sequence[Hour]) -> Sequence[Label]:
    step = 100 / max(len(hours), 1)
    return [
        Label(_short(step * (index + 0.5)), hour.start)
        for index, hour in enumerate(hours)
        if index and hour.start.hour % _LABEL_EVERY == 0
    ]


def _parts(hour: Hour, top: float) -> Sequence[BarPart]:
    """Stack completed, waiting and failed e-mails, from bottom to top."""
    parts, y = [], HEIGHT
    for kind in ("completed", "waiting", "failed"):
        if number := getattr(hour, kind):
            height = max(_LEAST_HEIGHT, HEIGHT * number / top)
            y = max(0.0, y - height)
            parts.append(BarPart(kind, _short(y), _short(height)))
    return parts


def _segments(values: Sequence[float | None], top: float) -> Sequence[Segment]:
    points = _places(values, top)
    segments = []
    for before, here, after in zip([None, *points], points, [*points[1:], None], strict=False):
        if here and after:
            segments.append(Segment(*here, *after))
        elif here and not before:
            segments.append(Segment(*here, *here))
    return segments


def _points(values: Sequence[float | None], top: float) -> Sequence[Point]:
    return [Point(*place) for place in _places(values, top) if place]


def _places(values: Sequence[float | None], top: float) -> Sequence[tuple[float, float] | None]:
    step = 100 / max(len(values), 1)
    return [
        None if value is None else (_short(step * (index + 0.5)), _short(HEIGHT * (1 - value / top)))
        for index, value in enumerate(values)
    ]


def _round_up(number: float) -> float:
    """Return a round number whose half is round, too."""
    if number <= 2:
        return max(number, 1)
    power = 10.0 ** int(log10(number))
    steps = (1, 2, 4, 6, 8, 10) if power == 1 else (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10)
    return next(round(step * power) for step in steps if step * power >= number)


def _round_up_time(seconds: float) -> float:
    """Return round seconds; above a minute, round minutes or hours."""
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
