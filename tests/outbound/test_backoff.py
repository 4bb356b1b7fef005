"""Pauses between attempts: longer with each retry, whatever the other side asks for."""

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
def test_who_asks_for_a_moment_each_time_does_not_use_up_the_budget(seconds: float) -> None:
    """What five hundred retries are to outlast is a weekend."""
    lasts = total(lambda retries: backoff(retries, 5, 600, asked(seconds)), 500)

    assert lasts > timedelta(days=1.5)


def test_who_asks_for_longer_gets_it_and_the_slowest_decides() -> None:
    assert backoff(2, 5, 600, asked(1, 300, 30)) == timedelta(seconds=300)


def test_the_first_time_who_asks_is_taken_at_their_word() -> None:
    assert backoff(0, 15, 600, asked(1)) == timedelta(seconds=1)
    assert backoff(1, 15, 600, asked(1)) > timedelta(seconds=15)


def test_nobody_gets_more_than_the_longest_pause() -> None:
    assert backoff(0, 5, 600, asked(86_400)) == timedelta(seconds=600)
    assert backoff(0, 5, 3, asked(1)) <= timedelta(seconds=3)


@pytest.mark.parametrize("retries", [0, 1, 5, 10_000])
def test_without_a_wish_it_doubles_within_bounds(retries: int) -> None:
    pause = backoff(retries, 5, 600).total_seconds()

    assert min(5 * 2 ** min(retries, 30), 300) <= pause <= min(10 * 2 ** min(retries, 30), 600)
