"""The ticket and the addresses of the files are read from a payload with any other content."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.zendesk.names import name_of
from service.zendesk.payloads import AnnouncedFile, Email, Ignored, idempotency_key, parse
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID
from tests.support.examples import examples
from tests.support.payloads import EVENT, FILE, json_values, write

SPELLINGS = ("ticket_id", "ticketId", "ticketID", "id")
URLS = ("url", "content_url")
USED_EVENTS = [
    f"zen:event-type:ticket.{kind}" for kind in ("created", "comment_added", "attachment_linked_to_comment")
]

texts = st.text(st.characters())
tickets = st.integers(min_value=0, max_value=10**26)
addresses = st.integers(min_value=0).map("https://acme.zendesk.com/attachments/token/{}".format)
# The forms of a number in templates: bare, quoted, padded, or as a float.
written = st.sampled_from([int, str, " {}\n".format, lambda n: float(n) if n < 2**53 else n])


def fields(*without: str) -> st.SearchStrategy[dict[str, Any]]:
    """Generate objects of known and unknown keys and any values, without these keys."""
    known = {
        "subject",
        "title",
        "from_email",
        "from_name",
        "received_at",
        "webhook_id",
        "account_id",
        "comment_id",
    }
    known |= {
        "type",
        "time",
        "detail",
        "event",
        "comment",
        "author",
        "filename",
        "fileName",
        "size",
        "content_type",
    }
    keys = st.sampled_from(sorted(known)) | texts
    return st.dictionaries(keys.filter(lambda key: key not in without), json_values, max_size=8)


def read(payload: object) -> Email:
    email = parse(write(payload))
    assert isinstance(email, Email)
    return email


@given(fields(*SPELLINGS, "ticket", "attachments"), tickets, written, st.sampled_from([*SPELLINGS, "ticket"]))
@settings(deadline=None, max_examples=examples(30))
def test_the_ticket_of_a_trigger_is_read_in_any_spelling(
    others: dict[str, Any], ticket: int, write_number: Any, spelling: str
) -> None:
    number = write_number(ticket)

    email = read(others | {spelling: {"id": number} if spelling == "ticket" else number})

    assert email.ticket_id == str(ticket)


@given(fields(*SPELLINGS, "ticket", "attachments"), fields("attachments", "id"), tickets, written)
@settings(deadline=None, max_examples=examples(30))
def test_the_ticket_of_a_trigger_is_read_out_of_an_object_of_any_kind(
    others: dict[str, Any], about: dict[str, Any], ticket: int, write_number: Any
) -> None:
    email = read(others | {"ticket": about | {"id": write_number(ticket)}})

    assert email.ticket_id == str(ticket)


@given(
    fields("ticket_id", "detail", "subject", "type"),
    fields("id"),
    json_values,
    st.sampled_from(USED_EVENTS),
    tickets,
    written,
)
@settings(deadline=None, max_examples=examples(30))
def test_the_ticket_of_an_event_is_in_its_detail_or_in_its_subject(
    others: dict[str, Any], detail: dict[str, Any], noise: Any, kind: str, ticket: int, write_number: Any
) -> None:
    event = others | {"type": kind}

    by_detail = read(event | {"detail": detail | {"id": write_number(ticket)}, "subject": noise})
    by_subject = read(event | {"detail": detail, "subject": f"zen:ticket:{ticket}"})

    assert (by_detail.ticket_id, by_subject.ticket_id) == (str(ticket), str(ticket))


@given(
    fields("ticket_id", "detail", "subject", "type", "event"), fields("attachment"), fields(*URLS), addresses
)
@settings(deadline=None, max_examples=examples(30))
def test_the_file_of_an_event_is_read_beside_any_other_content(
    others: dict[str, Any], comment: dict[str, Any], file: dict[str, Any], address: str
) -> None:
    told = comment | {"attachment": FILE | file | {"content_url": address}}

    email = read(EVENT | others | {"event": {"comment": told}})

    assert [each.url for each in email.attachments] == [address]


@given(
    fields(*SPELLINGS, "ticket", "attachments"),
    st.lists(
        st.tuples(fields(*URLS), st.sampled_from(URLS), addresses), max_size=6, unique_by=lambda told: told[2]
    ),
    st.booleans(),
)
@settings(deadline=None, max_examples=examples(30))
def test_the_files_of_a_trigger_are_read_in_order_beside_any_other_content(
    others: dict[str, Any],
    told: list[tuple[dict[str, Any], str, str]],
    is_quoted: bool,  # noqa: FBT001 hypothesis passes it
) -> None:
    files = [about | {key: address} for about, key, address in told]

    email = read(others | {"ticket_id": 7, "attachments": json.dumps(files) if is_quoted else files})

    assert [each.url for each in email.attachments] == [address for _, _, address in told]
    assert all(isinstance(each, AnnouncedFile) for each in email.attachments)


@given(
    fields("type"),
    st.sampled_from(USED_EVENTS) | texts.map("zen:event-type:{}".format),
    st.dictionaries(st.sampled_from([ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID]), texts),
)
@settings(deadline=None, max_examples=examples(30))
def test_an_event_of_any_kind_is_ignored_or_has_a_key(
    others: dict[str, Any], kind: str, headers: dict[str, str]
) -> None:
    """An event with any content is distinguished from a trigger and from other events."""
    envelope = {**EVENT, "type": kind, "subject": "zen:ticket:7"}
    is_trigger = any(name_of(key).is_trigger for key in others)

    parsed = parse(write(others | envelope))

    assert isinstance(parsed, Ignored) == (kind not in USED_EVENTS and not is_trigger)
    if isinstance(parsed, Email):
        assert 0 < len(idempotency_key(parsed, headers, b"")) <= 200
