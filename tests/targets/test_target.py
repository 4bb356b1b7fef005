"""Documents that one target accepted while another failed are remembered, up to a limit."""

from service.targets.target import AcceptedDocuments


def test_accepted_document_is_remembered_until_no_target_is_left() -> None:
    accepted = AcceptedDocuments()
    before = accepted.targets_of("a")
    accepted.record("a", {"mongodb"})
    then = accepted.targets_of("a")
    accepted.record("a", ())

    assert [set(each) for each in (before, then, accepted.targets_of("a"))] == [set(), {"mongodb"}, set()]


def test_oldest_document_is_dropped_first() -> None:
    accepted = AcceptedDocuments()
    for number in range(AcceptedDocuments.MAX_DOCUMENTS):
        accepted.record(number, {"webhook"})
    accepted.record(0, {"webhook"})
    accepted.record("one more", {"webhook"})

    assert [set(accepted.targets_of(number)) for number in range(3)] == [{"webhook"}, set(), {"webhook"}]
