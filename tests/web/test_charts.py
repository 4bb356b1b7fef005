"""Coordinates of charts, with no e-mails, one, and many."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from service.queries.history import Hour
from service.web.pages import charts

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)


def hour(
    place: int = 0, completed: int = 0, failed: int = 0, waiting: int = 0, p50: float | None = None
) -> Hour:
    return Hour(
        start=MIDNIGHT + timedelta(hours=place),
        received=completed + failed + waiting,
        completed=completed,
        dismissed=0,
        failed=failed,
        waiting=waiting,
        capped=False,
        queue_p50=p50,
        queue_p95=p50 and 2 * p50,
        processing_p50=None,
        processing_p95=None,
    )


def test_chart_without_emails_is_empty() -> None:
    chart = charts.numbers([hour(place) for place in range(25)])

    assert len(chart.columns) == 25
    assert not any(column.parts for column in chart.columns)
    assert charts.times([hour()], "queue").lines == [("p95", []), ("p50", [])]
    assert not charts.numbers([]).columns


@pytest.mark.parametrize("most", [1, 2, 3, 7, 99, 101, 10_000, 123_456])
def test_bars_stay_within_the_chart_and_scales_are_round(most: int) -> None:
    chart = charts.numbers([hour(0, completed=most), hour(1, completed=most // 2, failed=1)])

    top = float(chart.scale[0].replace(",", ""))
    assert most <= top <= 2 * most + 1
    assert not chart.scale[1] or float(chart.scale[1].replace(",", "")) == top / 2
    for column in chart.columns:
        for part in column.parts:
            assert 0 <= part.y < chart.height
            assert part.y + part.height <= chart.height + 1


def test_one_of_thousands_is_visible() -> None:
    chart = charts.numbers([hour(completed=9_999, failed=1)])

    assert {part.kind: part.height >= 2 for part in chart.columns[0].parts} == {
        "completed": True,
        "failed": True,
    }


def test_bars_fill_the_width_side_by_side() -> None:
    columns = charts.numbers([hour(place) for place in range(24)]).columns

    assert columns[0].x > 0
    assert columns[-1].x + columns[-1].width < 100
    assert all(left.x + left.width < right.x for left, right in pairwise(columns))


def test_line_has_gaps_at_hours_without_values() -> None:
    chart = charts.times([hour(0, p50=1), hour(1, p50=2), hour(2), hour(3, p50=1)], "queue")

    strokes = dict(chart.lines)["p50"]
    assert len(strokes) == 2
    assert (strokes[1].x1, strokes[1].y1) == (strokes[1].x2, strokes[1].y2), "an hour alone is a dot"


@pytest.mark.parametrize(
    ("seconds", "top"),
    [(0.0004, "10 ms"), (0.03, "40 ms"), (0.9, "1.0 s"), (7, "8.0 s"), (75, "2 min"), (5000, "2 h")],
)
def test_scales_of_times_are_round(seconds: float, top: str) -> None:
    assert charts.times([hour(p50=seconds / 2)], "queue").scale[0] == top


def test_every_fourth_hour_has_a_label() -> None:
    labels = charts.numbers([hour(place) for place in range(25)]).labels

    assert [label.time.hour for label in labels] == [4, 8, 12, 16, 20, 0]


@pytest.mark.parametrize(("values", "marks"), [(1, 1), (6, 6), (7, 0)])
def test_a_line_of_few_values_has_a_mark_for_each(values: int, marks: int) -> None:
    hours = [
        hour(place, 1, p50=1.0 if place % 3 == 0 and place < 3 * values else None) for place in range(25)
    ]
    chart = charts.times(hours, "queue")

    assert sum(len(points) for name, points in chart.points if name == "p50") == marks
    assert all(0 <= point.y <= charts.HEIGHT for _, points in chart.points for point in points)


def test_charts_of_less_than_three_hours_are_folded() -> None:
    assert [charts.is_folded([hour(place, 1) for place in range(number)]) for number in (0, 2, 3, 25)] == [
        True,
        True,
        False,
        False,
    ]
    assert charts.is_folded([hour(place) for place in range(25)])
