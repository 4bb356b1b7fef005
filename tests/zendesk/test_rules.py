"""Webhooks and triggers as values: shapes, comparison, and hostile answers."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.zendesk.invocations import names_comment, read_invocations, read_sent_body
from service.zendesk.rules import (
    BODY,
    REPAIRABLE,
    Clause,
    Trigger,
    endpoint_of,
    is_same_address,
    read_offered,
    read_trigger,
    read_webhook,
    trigger_drift,
    trigger_json,
    wanted_clauses,
    webhook_drift,
    webhook_json,
)

ENDPOINT = "https://holdfast.acme.example/webhooks/zendesk"
WEBHOOK = "01K9ZD7Q3W5HHZBEXAMPLE0000"
NAMES = st.sampled_from(
    [
        *("id", "endpoint", "status", "conditions", "actions", "all", "any", "field", "operator", "value"),
        *(
            "definitions",
            "conditions_any",
            "subject",
            "values",
            "invocations",
            "attempts",
            "request",
            "payload",
        ),
        *("latest_completed_at", "title", "active", "subscriptions"),
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=20,
)


def trigger(**changes: Any) -> Trigger:
    """Return our trigger as the API would answer, with changes."""
    clauses, _ = wanted_clauses("mail", None)
    made = trigger_json(WEBHOOK, clauses, is_active=True)["trigger"]
    assert isinstance(made, dict)
    read = read_trigger({"id": 7, **made, **changes})
    assert read is not None
    return read


def drift(found: Trigger | None) -> dict[str, str]:
    clauses, _ = wanted_clauses("mail", None)
    return {each.code: each.text for each in trigger_drift(found, WEBHOOK, clauses)}


def action(body: object, webhook: str = WEBHOOK) -> dict[str, object]:
    return {
        "field": "notification_webhook",
        "value": [webhook, body if isinstance(body, str) else json.dumps(body)],
    }


@pytest.mark.parametrize(
    ("address", "prefix", "expected"),
    [
        ("https://h.example", "", "https://h.example/webhooks/zendesk"),
        ("https://h.example/", "", "https://h.example/webhooks/zendesk"),
        ("https://H.example:443", "", "https://h.example/webhooks/zendesk"),
        ("https://h.example", "/mail", "https://h.example/mail/webhooks/zendesk"),
        ("https://h.example/other/", "/mail", "https://h.example/other/webhooks/zendesk"),
        ("https://h.example//webhooks/zendesk/", "", "https://h.example/webhooks/zendesk"),
        ("https://h.example/a%20b", "", "https://h.example/a%20b/webhooks/zendesk"),
        ("http://127.0.0.1:8000", "", "http://127.0.0.1:8000/webhooks/zendesk"),
    ],
)
def test_the_address_of_the_webhook_follows_from_that_of_the_service(
    address: str, prefix: str, expected: str
) -> None:
    assert endpoint_of(address, prefix) == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (ENDPOINT, True),
        ("https://HOLDFAST.acme.example:443//webhooks/zendesk/", True),
        ("http://holdfast.acme.example/webhooks/zendesk", False),
        ("https://holdfast.acme.example/webhooks/zendesk?x=1", False),
        ("https://holdfast.acme.example.evil.example/webhooks/zendesk", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_addresses_are_compared_by_meaning(other: str, expected: bool) -> None:  # noqa: FBT001 a table
    assert is_same_address(other, ENDPOINT) is expected
    assert is_same_address(ENDPOINT, other) is expected


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("https://müller.example/webhooks/zendesk", "https://xn--mller-kva.example/webhooks/zendesk"),
        ("https://h.example/é/webhooks/zendesk", "https://h.example/%C3%A9/webhooks/zendesk"),
    ],
)
def test_an_address_is_the_same_as_a_person_typed_it_and_as_it_is_sent(typed: str, sent: str) -> None:
    assert is_same_address(typed, sent)
    assert is_same_address(typed, endpoint_of(typed))


def test_what_we_make_has_no_drift() -> None:
    made = webhook_json(ENDPOINT)["webhook"]
    assert isinstance(made, dict)

    assert webhook_drift(read_webhook({"id": WEBHOOK, **made}), ENDPOINT) == []
    assert drift(trigger()) == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"conditions": {"all": [], "any": []}}, "It lacks the condition “Comment is Present” under ALL."),
        ({"actions": []}, "It does not notify our webhook."),
        ({"actions": [action(BODY, "01OTHER")]}, "It does not notify our webhook."),
        ({"actions": [action(BODY), action(BODY)]}, "more than once"),
        ({"actions": [action(BODY), action(BODY, "01OTHER")]}, "It notifies another webhook too."),
        (
            {"actions": [action(BODY), {"field": "status", "value": "solved"}]},
            "It has other actions: status.",
        ),
        ({"actions": [action("{{ticket.title}}")]}, "Its body is not a JSON object."),
        (
            {"actions": [action({**BODY, "subject": "{{ticket.title}}"})]},
            "The body has more fields: subject.",
        ),
        ({"actions": [action({**BODY, "comment_id": ""})]}, 'In the body, comment_id is "" and not'),
    ],
)
def test_a_difference_is_told_in_words(changes: dict[str, Any], expected: str) -> None:
    found = drift(trigger(**changes))

    assert list(found) == ["trigger_changed"]
    assert expected in found["trigger_changed"]
    assert {*found} <= REPAIRABLE


def test_an_extra_condition_is_a_difference() -> None:
    clauses, _ = wanted_clauses("mail", None)
    conditions = {
        "all": [
            {"field": "comment_is_public", "operator": "is", "value": "not_relevant"},
            {"field": "brand_id", "operator": "is_not", "value": 36},
        ],
        "any": [each._asdict() for each in clauses.some],
    }

    assert "“brand_id is not 36” under ALL" in drift(trigger(conditions=conditions))["trigger_changed"]


def test_offers_decide_which_conditions_are_wanted() -> None:
    answer = {
        "definitions": {
            "conditions_any": [
                {"subject": "current_via_id", "values": [{"value": "4"}, {"value": 27}, 7, {}]}
            ]
        }
    }
    offered = read_offered(answer, "current_via_id")
    clauses, missing = wanted_clauses("mail", offered)

    assert offered == frozenset({"4", "27"})
    assert missing == [Clause("current_via_id", "is", "21")]
    assert {each.value for each in clauses.some} == {"4", "27"}
    assert wanted_clauses("any", offered)[0].some == frozenset()
    assert wanted_clauses("mail", frozenset())[0].some == frozenset(), "no condition misses nothing"
    assert wanted_clauses("mail", read_offered({"definitions": {}}, "current_via_id"))[1] == []


@given(anything)
def test_no_answer_raises(value: object) -> None:
    webhook, found = read_webhook(value), read_trigger(value)
    read_offered(value, "current_via_id")
    read_invocations(value)
    read_sent_body(value)

    assert webhook is None or len(webhook.endpoint) <= 2048
    assert found is None or isinstance(drift(found), dict)


@pytest.mark.parametrize(
    "value",
    [
        {"id": "../../users/me", "endpoint": "x"},
        {"id": "a" * 65, "endpoint": "x"},
        {"id": 7, "endpoint": "x"},
        {"id": WEBHOOK, "endpoint": "x" * 3000},
        {"id": WEBHOOK},
    ],
)
def test_a_webhook_whose_id_does_not_belong_into_a_path_is_none(value: dict[str, object]) -> None:
    assert read_webhook(value) is None


@pytest.mark.parametrize("number", ["1/../2", "", None, "x", "1" * 31, True, [1]])
def test_a_trigger_whose_id_does_not_belong_into_a_path_is_none(number: object) -> None:
    assert read_trigger({"id": number, "conditions": {}, "actions": []}) is None


def test_huge_triggers_are_none() -> None:
    clause = {"field": "status", "operator": "is", "value": "x"}

    assert read_trigger({"id": 1, "conditions": {"all": [clause] * 500}, "actions": []}) is None
    assert read_trigger({"id": 1, "conditions": {}, "actions": [{"field": "x"}] * 500}) is None


def test_strangers_text_is_bounded_and_printable() -> None:
    conditions = {
        "all": [{"field": "x\x1b[31m" * 1000, "operator": "is", "value": ["\u202e" * 9999]}],
        "any": [],
    }
    text = drift(trigger(conditions=conditions, title="\0" * 9999))["trigger_changed"]

    assert len(text) < 1000
    assert text.isprintable()


def test_a_webhooks_address_is_shown_without_its_secrets() -> None:
    webhook = read_webhook({"id": WEBHOOK, "endpoint": "https://user:hunter2@x.example/p?token=hunter2"})

    assert "hunter2" not in str(webhook_drift(webhook, ENDPOINT))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"comment_id": "53104212805"}', True),
        ('{"comment_id": 53104212805}', True),
        ('{"comment_id": ""}', False),
        ('{"comment_id": "{{ticket.latest_comment.id}}"}', False),
        ('{"comment_id": true}', False),
        ("[]", False),
        ("", False),
        ("{" * 9999, False),
    ],
)
def test_a_body_names_a_comment_by_a_number(body: str, expected: bool) -> None:  # noqa: FBT001 a table
    assert names_comment(body) is expected


def test_invocations_are_newest_first_and_odd_ones_skipped() -> None:
    listed = [
        {"id": "a", "status": "Success", "latest_completed_at": "2026-11-30T01:00:00Z"},
        {"id": "b", "status": "circuit broken", "latest_completed_at": "2026-11-30T02:00:00.123Z"},
        {"id": "../c", "status": "success", "latest_completed_at": "2026-11-30T03:00:00Z"},
        {"id": "d", "status": "accepted", "latest_completed_at": None},
        7,
    ]
    found = read_invocations({"invocations": listed})

    assert [(each.id, each.is_delivered, each.is_broken) for each in found] == [
        ("b", False, True),
        ("a", True, False),
    ]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("success", False),
        ("accepted", False),
        ("unknown", False),
        ("failed", True),
        ("timeout", True),
        ("throttled", True),
        ("client error", True),
        ("server error", True),
        ("circuit broken", True),
    ],
)
def test_an_invocation_that_may_still_be_delivered_has_not_failed(status: str, expected: bool) -> None:  # noqa: FBT001 a table
    listed = [{"id": "a", "status": status, "latest_completed_at": "2026-11-30T01:00:00Z"}]

    assert [each.has_failed for each in read_invocations({"invocations": listed})] == [expected]
