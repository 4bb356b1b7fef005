"""What one target took while another was away is remembered, but not for ever."""

from service.targets.recent import MOST, Taken


def test_who_took_it_is_known_until_nobody_needs_to_be_reminded() -> None:
    taken = Taken()
    before = taken.by("a")
    taken.note("a", {"mongodb"})
    then = taken.by("a")
    taken.note("a", ())

    assert [set(each) for each in (before, then, taken.by("a"))] == [set(), {"mongodb"}, set()]


def test_what_was_noted_longest_ago_is_forgotten_first() -> None:
    taken = Taken()
    for number in range(MOST):
        taken.note(number, {"webhook"})
    taken.note(0, {"webhook"})
    taken.note("one more", {"webhook"})

    assert [set(taken.by(number)) for number in range(3)] == [{"webhook"}, set(), {"webhook"}]
