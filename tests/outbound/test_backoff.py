"""Pauses between attempts grow with each retry, for any Retry-After."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from service.errors import Transient
from service.outbound.backoff import backoff


def asked(*seconds: float) -> list[Transient]:
    return [Transient("server_error", "", timedelta(seconds=each)) for each in seconds]


def total(pause: Callable[[int], timedelta], retries: int) -> timedelta:
    return sum(map(pause, range(retries)), timedelta())


@pytest.mark.parametrize("seconds", [0, 1, 5])
def test_a_retry_after_of_one_second_does_not_use_up_the_retries(seconds: float) -> None:
    """Five hundred retries shall last for a weekend."""
    lasts = total(lambda retries: backoff(retries, 5, 600, asked(seconds)), 500)

    assert lasts > timedelta(days=1.5)


def test_the_longest_retry_after_decides() -> None:
    assert backoff(2, 5, 600, asked(1, 300, 30)) == timedelta(seconds=300)


def test_the_first_retry_after_is_taken_as_it_is() -> None:
    assert backoff(0, 15, 600, asked(1)) == timedelta(seconds=1)
    assert backoff(1, 15, 600, asked(1)) > timedelta(seconds=15)


def test_no_pause_exceeds_the_longest_one() -> None:
    assert backoff(0, 5, 600, asked(86_400)) == timedelta(seconds=600)
    assert backoff(0, 5, 3, asked(1)) <= timedelta(seconds=3)


@pytest.mark.parametrize("retries", [0, 1, 5, 10_000])
def test_without_a_retry_after_pauses_double_within_bounds(retries: int) -> None:
    pause = backoff(retries, 5, 600).total_seconds()

    assert min(5 * 2 ** min(retries, 30), 300) <= pause <= min(10 * 2 ** min(retries, 30), 600)
