"""Sizes, times and strangers' text on pages."""

from datetime import UTC, datetime, timedelta

import pytest

from service.web.handling import template_filters
from service.web.handling.template_filters import FILTERS


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (84_000, "84 kB"),
        (999_600, "1.0 MB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes_have_two_or_three_digits(number: float | None, text: str) -> None:
    assert template_filters.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\u2013"),
        (-0.1, "0 ms"),
        (0.0494, "49 ms"),
        (0.9999, "1.0 s"),
        (9.94, "9.9 s"),
        (12, "12 s"),
        (3700, "1 h 1 min"),
    ],
)
def test_times_have_two_or_three_digits(seconds: float | None, text: str) -> None:
    assert template_filters.precise(seconds) == text


def test_hidden_characters_are_replaced() -> None:
    assert template_filters.plain("a\u202eb\x00c\u200bd\ud800\n e") == "a\ufffdb\ufffdc\ufffdd\ufffd e"
    assert template_filters.plain(None) == ""
    assert FILTERS["block"]("a\r\nb\tc\x1b") == "a\nb\tc\ufffd"


def test_ages_are_never_negative() -> None:
    assert template_filters.ago(datetime.now(UTC) + timedelta(hours=1)) == "just now"
    assert template_filters.until(datetime.now(UTC) - timedelta(hours=1)) == "now"
