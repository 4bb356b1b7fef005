"""Idempotency keys, duplicate keys, and bodies that are forms."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.zendesk.body import Unreadable
from service.zendesk.payloads import Email, idempotency_key, parse
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID
from tests.support.examples import examples
from tests.support.payloads import CODES, OTHER_URL, URL, assert_storable, json_values, payloads, read, write

HEADERS = {WEBHOOK_ID: "01HOOK", INVOCATION_ID: "01INVOCATION", ACCOUNT_ID: "22129848"}


@pytest.mark.parametrize(
    ("source_id", "headers", "key"),
    [
        ("35436-1", HEADERS, "35436-1"),
        ("35436-1", {}, "35436-1"),
        ("01HOOK", HEADERS, "01INVOCATION"),
        (None, HEADERS, "01INVOCATION"),
        (None, {INVOCATION_ID: " 01INVOCATION "}, "01INVOCATION"),
        ("x" * 200, HEADERS, "x" * 200),
    ],
)
def test_the_key_is_the_first_id_that_names_the_invocation(
    source_id: str | None, headers: dict[str, str], key: str
) -> None:
    """The body's own id comes first, unless it is the webhook's constant id."""
    email = replace(read({"ticket_id": 1}), source_id=source_id)

    assert idempotency_key(email, headers, b"{}") == key


@pytest.mark.parametrize(
    "headers", [{}, {ACCOUNT_ID: "1"}, {INVOCATION_ID: "", ACCOUNT_ID: "1", WEBHOOK_ID: ""}]
)
def test_without_any_id_the_body_is_the_key(headers: dict[str, str]) -> None:
    """Equal bytes of one account are one e-mail; other bytes or another account are not."""
    key = idempotency_key(None, headers, b"a")

    assert key.startswith("sha256:")
    assert key == idempotency_key(read({"ticket_id": 1}), headers, b"a")
    assert key != idempotency_key(None, headers, b"b")
    assert key != idempotency_key(None, {ACCOUNT_ID: "2"}, b"a")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a\0", "a\ud800"),
        ("a\ufffd", "a\0"),
        ("\udc80", "\udc81"),
        ("x" * 201, "x" * 202),
        ("x" * 300, "x" * 200),
    ],
)
def test_ids_that_have_to_be_cleaned_stay_different(one: str, other: str) -> None:
    """An id that Postgres refuses is replaced by its hash, in the body and in the header."""
    by_body = {idempotency_key(read({"ticket_id": 1, "webhook_id": id_}), {}, b"") for id_ in (one, other)}
    by_header = {idempotency_key(None, {INVOCATION_ID: id_}, b"") for id_ in (one, other)}

    assert (len(by_body), len(by_header)) == (2, 2)


@given(
    st.binary()
    | st.builds(lambda mark, rest: mark + rest, st.sampled_from([b"\xff\xfe", b"{", b"["]), st.binary())
)
@settings(deadline=None)
def test_no_bytes_raise_anything_but_unreadable(body: bytes) -> None:
    """Any signed body is an e-mail, ignored, or Unreadable."""
    try:
        parse(body)
    except Unreadable as error:
        assert error.code in CODES  # noqa: PT017 either outcome is right


@given(json_values | payloads)
@settings(deadline=None, max_examples=examples(100))
def test_the_result_for_any_json_can_be_saved(payload: object) -> None:
    """Any JSON at all is Unreadable, ignored, or an e-mail that Postgres takes."""
    try:
        parsed = parse(write(payload))
    except Unreadable:
        return
    if isinstance(parsed, Email):
        assert_storable(parsed)


@given(payloads, st.integers(min_value=0, max_value=10**26), st.booleans())
@settings(deadline=None, max_examples=examples(100))
def test_a_ticket_id_is_never_lost(others: dict[str, Any], ticket: int, quoted: bool) -> None:  # noqa: FBT001 hypothesis passes it
    """With any other keys: only an unreadable list of attachments leads to quarantine."""
    others.pop("attachments", None)
    if isinstance(others.get("ticket"), dict):
        others["ticket"].pop("attachments", None)

    assert read(others | {"ticket_id": str(ticket) if quoted else ticket}).ticket_id == str(ticket)


@given(
    st.none() | st.text(st.characters()),
    st.dictionaries(st.sampled_from(list(HEADERS)), st.text(st.characters())),
)
@settings(deadline=None)
def test_every_key_can_be_saved(source_id: str | None, headers: dict[str, str]) -> None:
    """At most 200 characters that Postgres accepts, and never empty."""
    email = read({"ticket_id": 1, "webhook_id": source_id})

    key = idempotency_key(email, headers, b"")

    assert 0 < len(key) <= 200
    assert b"\0" not in key.encode("utf-8")


def test_too_many_attachments_are_refused_before_any_is_recorded() -> None:
    with pytest.raises(Unreadable) as caught:
        read({"ticket_id": 1, "attachments": ["https://x"] * 10_001})

    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize(
    "body",
    [
        b'{"ticket_id": 1, "ticket_id": 2}',
        b'{"ticket_id": 1, "ticket_id": "1"}',
        b'{"ticket_id": 1, "subject": "x", "subject": ""}',
        b'{"ticket_id": 1, "ticket": {"a": [{"b": null, "b": false}]}}',
        b'{"ticket_id": 1, "x": [1], "x": [true]}',
        b'{"ticket_id": 1, "attachments": [{"url": "https://a", "filename": "x", "url": ""}]}',
        b'{"ticket_id": 1, "attachments": "[{\\"url\\": \\"https://a\\", \\"url\\": \\"\\"}]"}',
        b'{"ticket_id": 1, "attachments": [], "attachments": 5}',
        b'{"type": "x", "ticket_id": 1, "type": "zen:event-type:user.created"}',
    ],
)
def test_a_duplicate_key_is_refused(body: bytes) -> None:
    """A sender's quotation mark in a subject or a file's name can produce one; the right one is unknown."""
    with pytest.raises(Unreadable) as caught:
        parse(body)

    assert caught.value.code == "duplicate_key"


def test_the_error_names_the_duplicate_key_briefly() -> None:
    with pytest.raises(Unreadable, match=r"'k{50,100}' stands twice"):
        parse(b'{"%(k)s": 1, "%(k)s": 2}' % {b"k": b"k" * 100_000})


def test_a_duplicate_key_with_equal_values_is_read() -> None:
    assert parse(b'{"ticket_id": 1, "ticket_id": 1, "x": {"a": [1]}, "x": {"a": [1]}}') == read(
        {"ticket_id": 1}
    )


@pytest.mark.parametrize("key", ["attachments", "attachment", "attachment_urls", "files", "file"])
@pytest.mark.parametrize(
    ("one", "other"), [("[%s]", "[%s]"), ("%s", "[%s]"), ("%s", "%s"), ('{"url": %s}', "%s")]
)
def test_lists_of_files_under_one_key_are_joined(key: str, one: str, other: str) -> None:
    first, second = one % f'"{URL}"', other % f'"{OTHER_URL}"'

    email = parse(f'{{"ticket_id": 1, "{key}": {first}, "x": "", "{key}": {second}, "{key}": ""}}'.encode())

    assert isinstance(email, Email)
    assert [file.url for file in email.attachments] == [URL, OTHER_URL]


FORM = "application/x-www-form-urlencoded"
JSON_BODY = json.dumps({"ticket_id": "35436", "subject": "Größe & <b>", "attachments": [{"url": URL}]})


@pytest.mark.parametrize(
    "content_type", ["", "text/json", "application/vnd.api+json", "text/plain", "application/xml", FORM]
)
def test_json_is_read_under_any_media_type(content_type: str) -> None:
    assert parse(JSON_BODY.encode(), content_type) == parse(JSON_BODY.encode())


@pytest.mark.parametrize(
    "fields",
    [
        [("payload", JSON_BODY)],
        [("Payload", JSON_BODY)],
        [("token", "x"), ("payload", JSON_BODY)],
        [("data", JSON_BODY)],
        [(JSON_BODY, "")],
        [("ticket_id", "35436"), ("subject", "Größe & <b>"), ("attachments", json.dumps([{"url": URL}]))],
    ],
)
def test_an_unambiguous_form_is_read(fields: list[tuple[str, str]]) -> None:
    assert parse(urlencode(fields).encode(), FORM) == parse(JSON_BODY.encode())


def test_addresses_in_a_form_are_files() -> None:
    fields = {"ticketId": "1", "attachment_urls[]": [URL, OTHER_URL]}

    email = parse(urlencode(fields, doseq=True).encode(), FORM)

    assert isinstance(email, Email)
    assert [file.url for file in email.attachments] == [URL, OTHER_URL]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (f"ticket_id=1029&subject=Rechnung&attachments={URL}", "not_json"),  # a "&" in it would begin a field
        ("ticket_id=1&subject=Größe", "not_json"),
        ("ticket_id=1&subject=a%2", "not_json"),
        ("ticket_id=1&subject", "not_json"),
        ("subject=Rechnung", "not_json"),
        ("id=1", "not_json"),
        ("", "not_json"),
        ("&".join(f"x{n}=" for n in range(2000)) + "&ticket_id=1", "not_json"),
        ("ticket_id=", "no_ticket"),
        ("ticket_id=1&ticket_id=2", "duplicate_key"),
        ("ticket_id=1&attachments=&subject=a&subject=b", "duplicate_key"),
        ("payload=%7B%22ticket_id%22%3A1%7D&ticket_id=2", "duplicate_key"),
        ("payload=%7B%22ticket_id%22%3A1%2C%22ticket_id%22%3A2%7D", "duplicate_key"),
        ("payload=%7B%22ticket_id%22%3A1", "not_json"),
    ],
)
def test_an_ambiguous_form_is_refused(body: str, code: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(body.encode(), FORM)

    assert caught.value.code == code


@pytest.mark.parametrize("content_type", ["application/xml", "text/xml", "text/plain", "", FORM])
@pytest.mark.parametrize("body", ["", " ", "<ticket><id>35436</id></ticket>", "hello"])
def test_a_body_that_is_neither_json_nor_a_form_is_refused(content_type: str, body: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(body.encode(), content_type)

    assert caught.value.code == "not_json"
