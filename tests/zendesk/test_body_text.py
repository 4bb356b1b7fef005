"""The text of an e-mail in a webhook's body."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.zendesk import body_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["body", "comment", "ticket", "text", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"ticket_id": 1, "body": "Hello", "description": "First"}', "Hello"),
        (b'{"ticket_id": 1, "html_body": "<p>", "body_text": "Hello", "body": "Other"}', "Hello"),
        (b'{"ticket": {"comment": {"plain_body": "Hello", "body": "Other"}}}', "Hello"),
        (b'{"comment": "Hello"}', "Hello"),
        (b'{"body": "a\\u0000\\ud800b"}', "a\ufffd\ufffdb"),
        (b'{"body": "  "}', None),
        (b'{"author": {"body": "no"}}', None),
        (b'{"subject": "no"}', None),
        (b"not JSON", None),
        (b"", None),
    ],
)
def test_text_is_that_of_the_best_key(body: bytes, text: str | None) -> None:
    assert body_text.read([("Content-Type", "application/json")], body) == text


def test_form_has_a_text_too() -> None:
    headers = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")]

    assert body_text.read(headers, b"ticket_id=1&body=Hello+you") == "Hello you"


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_have_a_clean_text_or_none(body: bytes) -> None:
    text = body_text.read([], body)

    assert text is None or (text.strip() and "\0" not in text and text.encode().decode() == text)


def test_deep_body_has_no_text() -> None:
    body: object = {"body": "Hello"}
    for _ in range(10):
        body = {"ticket": body}

    assert body_text.read([], json.dumps(body).encode()) is None
