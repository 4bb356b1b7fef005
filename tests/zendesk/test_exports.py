"""Answers of Zendesk's exports and lists are read with suspicion: what is unsure is looked at, and nothing is lost."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Transient
from service.zendesk.exports import (
    Change,
    EventsPage,
    ListedComment,
    account_of_comments,
    id_of,
    next_page,
    read_changed_tickets,
    read_deleted_tickets,
    read_events,
    read_suspended,
)

AT = "2026-11-20T12:00:00Z"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOTES = {"message_id": "<1@a.example>", "raw_email_identifier": "21978514/a-b.eml"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=10), each, max_size=4),
    max_leaves=15,
)


def event(*children: object, **more: object) -> dict[str, Any]:
    return {
        "id": 1,
        "ticket_id": 77,
        "timestamp": 1_795_000_000,
        "created_at": AT,
        "child_events": [*children],
        **more,
    }


def comment(**more: object) -> dict[str, Any]:
    return {"id": 9, "event_type": "Comment", "created_at": AT, **more}


def read(*events: object, **more: object) -> EventsPage:
    return read_events({"ticket_events": [*events], "end_of_stream": True, "end_time": 7, **more}, 1_000)


FOUND, UNSURE, OTHER = "found", "unsure", "other"


@pytest.mark.parametrize(
    ("audit", "child", "expected"),
    [
        # The comment's own channel.
        ({}, {"via": {"channel": "email"}}, FOUND),
        ({}, {"via": {"channel": "mail"}}, FOUND),
        ({}, {"via": {"channel": 4}}, FOUND),
        ({}, {"via": {"channel": "4"}}, FOUND),
        ({}, {"via": {"channel": "EMail"}}, FOUND),
        ({}, {"via": {"channel": "web", "source": {"rel": None}}}, OTHER),
        ({}, {"via": {"channel": "api"}}, OTHER),
        # Notes about an e-mail, of the comment or of the audit.
        ({}, {"via": {"channel": "web"}, "metadata": {"system": NOTES}}, FOUND),
        ({"system": NOTES}, {"via": {"channel": "web", "source": {"rel": "follow_up"}}}, FOUND),
        ({"metadata": {"system": {"email_id": "01K"}}}, {}, FOUND),
        ({"system": {"message_id": ""}}, {"via": {"channel": "web"}}, OTHER),
        # A text for people, in any language.
        ({}, {"via": "Mail"}, FOUND),
        ({"via": "Email"}, {}, FOUND),
        ({}, {"via": "E-Mail"}, FOUND),
        ({}, {"via": "Correo electrónico"}, UNSURE),
        ({}, {"via": "Web form"}, UNSURE),
        # What cannot be told.
        ({}, {}, UNSURE),
        ({}, {"via": None}, UNSURE),
        ({}, {"via": []}, UNSURE),
        ({}, {"via": {}}, UNSURE),
        ({}, {"via": {"channel": None}}, UNSURE),
        ({}, {"via": {"channel": 27}}, UNSURE),
        ({}, {"via": {"channel": "closed_ticket"}}, UNSURE),
        ({}, {"via": {"channel": "web", "source": {"rel": "follow_up"}}}, UNSURE),
        ({"via": "Mail"}, {"via": {"channel": "web"}}, UNSURE),
        # No comment, or one that has no text.
        ({}, {"event_type": "Change", "via": "Mail"}, OTHER),
        ({}, {"event_type": "VoiceComment", "via": {"channel": "email"}}, OTHER),
        ({}, {"event_type": 7, "type": "Comment", "via": {"channel": "email"}}, FOUND),
        # Surely by e-mail, but which comment, or when?
        ({}, {"id": None, "via": {"channel": "email"}}, UNSURE),
        ({}, {"id": "9; DROP", "via": {"channel": "email"}}, UNSURE),
        ({"created_at": None, "timestamp": None}, {"created_at": None, "via": {"channel": "email"}}, UNSURE),
    ],
)
def test_a_comment_is_an_e_mail_or_is_not_or_is_to_be_looked_at(
    audit: dict[str, Any], child: dict[str, Any], expected: str
) -> None:
    page = read(event(comment(**child), **audit))

    told = FOUND if page.found else UNSURE if page.unsure else OTHER
    assert told == expected


def test_the_notes_of_an_audit_with_two_comments_tell_nothing_of_either() -> None:
    page = read(
        event(comment(via={"channel": "web", "source": {"rel": "follow_up"}}), comment(id=10), system=NOTES)
    )

    assert (page.found, page.unsure, page.account_id) == ([], {"77": NOON}, "21978514")


def test_of_several_unsure_comments_of_a_ticket_the_earliest_counts() -> None:
    early, late = NOON - timedelta(hours=1), NOON
    page = read(*(event(comment(created_at=time.isoformat())) for time in (late, early, late)))

    assert page.unsure == {"77": early}


def test_an_unsure_comment_without_a_time_makes_the_ticket_unsure_since_the_beginning() -> None:
    nameless = event(comment(created_at=None), created_at="?", timestamp=None)
    page = read(nameless, event(comment()))

    assert page.unsure == {"77": None}


def test_an_audit_with_more_events_than_are_read_makes_its_ticket_unsure() -> None:
    page = read(event(*[{}] * 1_000, comment(via={"channel": "email"})))

    assert (page.found, page.unsure) == ([], {"77": None})


@pytest.mark.parametrize("children", [None, {}, "", 0])
def test_an_audit_that_does_not_tell_its_events_makes_its_ticket_unsure(children: object) -> None:
    page = read({**event(), "child_events": children})

    assert (page.found, page.unsure) == ([], {"77": None})


def test_a_comment_is_read_with_its_ids_as_texts() -> None:
    page = read(event(comment(via={"channel": "email"}, id=54509304133531)))

    assert page.found == [ListedComment("77", "54509304133531", NOON)]


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ({"event_type": "CommentRedactionEvent", "comment_id": 9}, Change("77", "9", "redacted")),
        ({"event_type": "AttachmentRedactionEvent", "comment_id": 9}, Change("77", "9", "redacted")),
        (
            {"event_type": "CommentPrivacyChange", "comment_id": 9, "public": False},
            Change("77", "9", "private"),
        ),
        (
            {"event_type": "CommentPrivacyChange", "comment_id": 9, "public": True},
            Change("77", "9", "public"),
        ),
        (
            {"event_type": "Change", "status": "deleted", "previous_value": "open"},
            Change("77", None, "deleted"),
        ),
        (
            {"event_type": "Change", "status": "open", "previous_value": "deleted"},
            Change("77", None, "restored"),
        ),
        ({"event_type": "Change", "status": "solved", "previous_value": "open"}, None),
        ({"event_type": "CommentRedactionEvent"}, None),
        ({"event_type": "CommentRedactionEvent", "comment_id": [9]}, None),
        ({"event_type": "CommentPrivacyChange", "comment_id": 9, "public": "no"}, None),
    ],
)
def test_what_zendesk_did_with_a_comment_or_a_ticket(child: dict[str, Any], expected: Change | None) -> None:
    assert read(event(child)).changes == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("more", "count", "expected"),
    [
        ({"end_of_stream": True}, 3, True),
        ({"end_of_stream": False}, 3, False),
        ({"end_of_stream": None}, 3, True),
        ({"end_of_stream": "no"}, 1_000, False),
        ({"end_of_stream": False}, 0, False),
    ],
)
def test_the_end_of_an_export(more: dict[str, Any], count: int, expected: bool) -> None:  # noqa: FBT001 a parameter
    assert read(*[{}] * count, **more).is_end is expected


@pytest.mark.parametrize("end", [None, -1, 1e9, "7", True, 10**30, [], {}])
def test_an_end_that_is_no_time_is_none(end: object) -> None:
    assert read(event(), end_time=end).end_time is None


@pytest.mark.parametrize("value", [None, True, 1.5, -1, "", "1\0", "abc", "1" * 31, [], "١٢"])
def test_an_id_is_a_number_of_thirty_digits_at_most(value: object) -> None:
    assert id_of(value) is None


@pytest.mark.parametrize("function", [read_changed_tickets, read_deleted_tickets, read_suspended])
@pytest.mark.parametrize("value", [None, {}, "x", 7, [{}] * 10_001])
def test_an_answer_without_a_list_is_refused(function: Any, value: object) -> None:
    names = ("tickets", "deleted_tickets", "suspended_tickets")

    with pytest.raises(Transient, match="did not answer with"):
        function(dict.fromkeys(names, value))


@pytest.mark.parametrize("cursor", [None, "", 7, "x" * 2_001, "a\nb"])
def test_a_next_page_without_a_usable_cursor_is_refused(cursor: object) -> None:
    """Otherwise the rest of the list would be taken for none."""
    with pytest.raises(Transient):
        read_changed_tickets({"tickets": [], "meta": {"has_more": True, "after_cursor": cursor}})


def test_pages_follow_by_cursor_or_by_number() -> None:
    assert next_page({"meta": {"has_more": True, "after_cursor": "abc"}}, 1) == {
        "page[size]": "100",
        "page[after]": "abc",
    }
    assert next_page({"next_page": "https://anywhere.example/"}, 3) == {"per_page": "100", "page": "4"}
    assert next_page({"meta": {"has_more": False, "after_cursor": "abc"}, "next_page": None}, 1) is None


def test_a_suspended_e_mail_is_read_in_texts_that_postgres_accepts() -> None:
    (item,) = read_suspended(
        {
            "suspended_tickets": [
                {
                    "id": 5,
                    "author": {"name": "M\0ara", "email": "mara@customer.example"},
                    "subject": "x" * 5_000,
                    "content": "a\0b" + "€" * 70_000,
                    "cause": "Detected as spam",
                    "created_at": AT,
                    "attachments": [{"content_url": "https://a.example/1", "file_name": "a.pdf"}] * 500,
                }
            ]
        }
    )

    assert (item.suspended_id, item.from_name, item.from_address) == (
        "5",
        "M\ufffdara",
        "mara@customer.example",
    )
    assert (len(item.subject or ""), item.created_at, len(item.files)) == (1_000, NOON, 100)
    assert len(item.text.encode()) <= 65_536
    assert json.loads(item.record)["id"] == 5


def test_the_account_is_that_of_the_key_under_which_an_e_mail_is_stored() -> None:
    def named(identifier: object) -> str | None:
        return account_of_comments(
            {"comments": [{"metadata": {"system": {"raw_email_identifier": identifier}}}]}
        )

    others: list[object] = ["x/1.eml", "21978514", 7, None, "1" * 31 + "/a", []]
    assert named("21978514/9d.eml") == "21978514"
    assert [named(other) for other in others] == [None] * 6


@given(
    JSON, st.sampled_from(["ticket_events", "tickets", "deleted_tickets", "suspended_tickets", "comments"])
)
def test_no_answer_breaks_the_reader(value: object, name: str) -> None:
    page = {name: value if isinstance(value, list) else [value], "meta": value, "end_time": value}
    for function in (
        lambda page: read_events(page, 1_000),
        *(read_changed_tickets, read_deleted_tickets, read_suspended, account_of_comments),
    ):
        with suppress(Transient):
            function(page)


@given(
    st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(event(), JSON) | dict.fromkeys(comment(), JSON))
    )
)
def test_no_event_breaks_the_reader(children: list[dict[str, Any]]) -> None:
    page = read(event(*children), *children, event(*[{**comment(), **child} for child in children]))

    assert all(len(each.comment_id) <= 30 for each in page.found)
