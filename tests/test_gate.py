"""Before the targets: an outage costs who waits nothing, and a target that asks to be left alone is."""

from datetime import timedelta

import pytest

from service.errors import Transient
from service.targets.gate import LEAST_SECONDS, MOST_SECONDS, Gate


class Clock:
    """Tells the time that it is set to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(16, 600, clock)


def busy(seconds: float | None = None) -> Transient:
    return Transient("receiver_busy", "", None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("asked", "shut"), [(None, LEAST_SECONDS), (0, LEAST_SECONDS), (3, 3), (120, 120), (3600, 600)]
)
def test_it_stays_shut_for_as_long_as_a_target_asks_for(
    gate: Gate, clock: Clock, asked: float | None, shut: float
) -> None:
    """As a retry does, but for no longer than one may wait."""
    gate.note(busy(asked))

    rooms = []
    for seconds in (0, shut - 0.01, 0.02):
        clock.now += seconds
        rooms.append(gate.room)
    assert rooms == [0, 0, 1]


def test_while_nobody_asks_for_more_an_end_is_noticed_within_some_seconds(gate: Gate, clock: Clock) -> None:
    for _ in range(20):
        clock.now += MOST_SECONDS
        assert gate.room
        gate.note(busy())


def test_one_tries_and_if_it_does_all_may_pass(gate: Gate, clock: Clock) -> None:
    gate.note(busy())
    clock.now += LEAST_SECONDS
    with gate.passing():
        others = gate.room
        gate.note(None)

    assert (others, gate.room) == (0, 16)


def test_of_many_who_failed_together_one_counts(gate: Gate, clock: Clock) -> None:
    for _ in range(16):
        gate.note(busy())
    clock.now += LEAST_SECONDS

    assert gate.room == 1
