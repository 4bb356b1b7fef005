"""Circuit breakers: an outage uses up no retries, and a target's own pause is respected."""

from datetime import timedelta

import pytest

from service.errors import Transient
from service.targets.circuit_breaker import MAX_OPEN_SECONDS, MIN_OPEN_SECONDS, CircuitBreakers


class Clock:
    """A clock that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> CircuitBreakers:
    return CircuitBreakers(["target"], 16, 600, clock)


def busy(seconds: float | None = None) -> Transient:
    return Transient("receiver_busy", "", None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, MIN_OPEN_SECONDS), (0, MIN_OPEN_SECONDS), (3, 3), (120, 120), (3600, 600)],
)
def test_circuit_breaker_stays_open_for_the_pause_that_the_target_asks_for(
    breakers: CircuitBreakers, clock: Clock, asked: float | None, expected: float
) -> None:
    """The pause is bounded by the longest backoff of a retry."""
    breakers.report("target", busy(asked))

    slots = []
    for seconds in (0, expected - 0.01, 0.02):
        clock.now += seconds
        slots.append(breakers.free_slots)
    assert slots == [0, 0, 1]


def test_without_a_pause_of_the_target_a_probe_follows_within_15_seconds(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    for _ in range(20):
        clock.now += MAX_OPEN_SECONDS
        assert breakers.free_slots
        breakers.report("target", busy())


def test_successful_probe_frees_all_slots(breakers: CircuitBreakers, clock: Clock) -> None:
    breakers.report("target", busy())
    clock.now += MIN_OPEN_SECONDS
    with breakers.slot():
        during_probe = breakers.free_slots
        breakers.report("target", None)

    assert (during_probe, breakers.free_slots) == (0, 16)


def test_concurrent_failures_count_as_one(breakers: CircuitBreakers, clock: Clock) -> None:
    for _ in range(16):
        breakers.report("target", busy())
    clock.now += MIN_OPEN_SECONDS

    assert breakers.free_slots == 1


def test_open_circuit_breaker_of_one_target_does_not_block_the_other(clock: Clock) -> None:
    breakers = CircuitBreakers(["up", "down"], 16, 600, clock)
    error = busy()
    breakers.report("down", error)
    refusals = [breakers.refusal(name) for name in ("up", "down")]
    slots = breakers.free_slots
    clock.now += MIN_OPEN_SECONDS

    assert (refusals, slots) == ([None, error], 16)
    assert [breakers.refusal("down") for _ in range(3)] == [None, error, error], (
        "there is more than one probe"
    )


def test_while_both_are_open_no_sync_starts_until_the_first_probe(clock: Clock) -> None:
    breakers = CircuitBreakers(["one", "other"], 16, 600, clock)
    breakers.report("one", busy(60))
    breakers.report("other", busy())
    blocked = breakers.free_slots
    clock.now += MIN_OPEN_SECONDS

    assert (blocked, breakers.free_slots) == (0, 1)


def test_cancelled_probe_delays_the_next_one_by_15_seconds_at_most(
    breakers: CircuitBreakers, clock: Clock
) -> None:
    breakers.report("target", busy())
    clock.now += MIN_OPEN_SECONDS
    breakers.refusal("target")
    clock.now += MAX_OPEN_SECONDS

    assert breakers.refusal("target") is None
