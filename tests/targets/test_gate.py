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
    return Gate(["it"], 16, 600, clock)


def busy(seconds: float | None = None) -> Transient:
    return Transient("receiver_busy", "", None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("asked", "shut"), [(None, LEAST_SECONDS), (0, LEAST_SECONDS), (3, 3), (120, 120), (3600, 600)]
)
def test_it_stays_shut_for_as_long_as_a_target_asks_for(
    gate: Gate, clock: Clock, asked: float | None, shut: float
) -> None:
    """As a retry does, but for no longer than one may wait."""
    gate.note("it", busy(asked))

    rooms = []
    for seconds in (0, shut - 0.01, 0.02):
        clock.now += seconds
        rooms.append(gate.room)
    assert rooms == [0, 0, 1]


def test_while_nobody_asks_for_more_an_end_is_noticed_within_some_seconds(gate: Gate, clock: Clock) -> None:
    for _ in range(20):
        clock.now += MOST_SECONDS
        assert gate.room
        gate.note("it", busy())


def test_one_tries_and_if_it_does_all_may_pass(gate: Gate, clock: Clock) -> None:
    gate.note("it", busy())
    clock.now += LEAST_SECONDS
    with gate.passing():
        others = gate.room
        gate.note("it", None)

    assert (others, gate.room) == (0, 16)


def test_of_many_who_failed_together_one_counts(gate: Gate, clock: Clock) -> None:
    for _ in range(16):
        gate.note("it", busy())
    clock.now += LEAST_SECONDS

    assert gate.room == 1


def test_one_of_two_that_is_away_is_left_alone_and_shuts_nothing(clock: Clock) -> None:
    gate = Gate(["here", "away"], 16, 600, clock)
    why = busy()
    gate.note("away", why)
    refusals = [gate.refusal(name) for name in ("here", "away")]
    room = gate.room
    clock.now += LEAST_SECONDS

    assert (refusals, room) == ([None, why], 16)
    assert [gate.refusal("away") for _ in range(3)] == [None, why, why], "more than one tries"


def test_when_both_are_away_nothing_passes_until_one_may_be_tried(clock: Clock) -> None:
    gate = Gate(["one", "other"], 16, 600, clock)
    gate.note("one", busy(60))
    gate.note("other", busy())
    shut = gate.room
    clock.now += LEAST_SECONDS

    assert (shut, gate.room) == (0, 1)


def test_who_tries_and_is_cut_off_keeps_nobody_waiting_for_long(gate: Gate, clock: Clock) -> None:
    gate.note("it", busy())
    clock.now += LEAST_SECONDS
    gate.refusal("it")
    clock.now += MOST_SECONDS

    assert gate.refusal("it") is None
