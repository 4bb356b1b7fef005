"""The place of a mistake in a body, and the ticket and subject that it seems to have, for any bytes."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.zendesk.mistakes import AROUND, MOST_SUBJECT, Guess, guess_of, mistake_in


def test_the_character_after_an_unescaped_quotation_mark_is_marked() -> None:
    body = b'{\n  "ticket_id": 4711,\n  "subject": "He said "no"",\n  "from": "a@b.example"\n}'

    found = mistake_in(body)

    assert found is not None
    assert (found.line, found.column, found.at) == (3, 24, "n")
    assert found.before.endswith('"subject": "He said "')
    assert found.after.startswith('o"",')


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": 1', b'{"a" 1}', b"\xff\xfe", b"\0" * 100])
def test_a_body_that_breaks_off_or_is_no_text_has_a_place(body: bytes) -> None:
    found = mistake_in(body)

    assert found is not None
    assert found.line >= 1
    assert len(found.at) <= 1


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        ('{"a": 1, "a": 2}', 1, 10),
        ('{"b": {"a": 1}, "a": 1,\n "c": ["a", "a"], "a" : 2}', 2, 19),
        ('{"a": 1 , "a":1, "\\u0061": "x", "a": 3}', 1, 18),
        ('[{"a": 1}, {"a": 2}, {"a": [1], "b": "a", "a": [1, 2]}] and more "', 1, 43),
        ('{"x": "\\"a\\": 1", "a": {"a": {"a": 1, "a": 2}}}', 1, 39),
    ],
)
def test_the_second_place_of_a_key_with_another_value_is_marked(body: str, line: int, column: int) -> None:
    found = mistake_in(body.encode())

    assert found is not None
    assert (found.line, found.column, found.at) == (line, column, '"')
    assert found.reason == "The key 'a' occurs twice, with different values"


@pytest.mark.parametrize("body", [b'{"ticket_id": 1}', b"[]", b"NaN", b'{"a": 1, "a": 1}', b"[" * 10_000])
def test_what_is_json_or_wrong_in_another_way_has_no_place(body: bytes) -> None:
    assert mistake_in(body) is None


@pytest.mark.parametrize(
    ("body", "ticket", "subject"),
    [
        ('{"ticket_id": 4711, "subject": "He said "no", thrice", "from": 1', "4711", 'He said "no", thrice'),
        ('{"ticket": {"id": "12"}, "title": "Gr\\u00fc\\u00dfe', "12", "Grüße"),
        ('{"Ticket ID" : "5",\n"Subject":"a\nb"', "5", "a"),
        ("ticket_id=77&subject=x", "77", None),
        ('{"subject": "zen:ticket:9", "id": "01ABC"', "9", "zen:ticket:9"),
        ('{"id": "2024-11-30"', None, None),
        ('{"subject": ""', None, None),
        ('{"subject": "' + "no" * MOST_SUBJECT, None, "no" * (MOST_SUBJECT // 2)),
        ("", None, None),
    ],
)
def test_ticket_and_subject_are_guessed(body: str, ticket: str | None, subject: str | None) -> None:
    assert guess_of(body.encode()) == Guess(ticket, subject)


@given(st.binary(max_size=2_000) | st.text(max_size=500).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_have_bounded_texts_that_postgres_and_pages_accept(body: bytes) -> None:
    body = b'{"subject": "' + body
    mistake, guess = mistake_in(body), guess_of(body)

    texts = [guess.subject or "", guess.ticket or ""]
    if mistake:
        texts += [mistake.before, mistake.at, mistake.after]
    assert all("\0" not in text and text.encode() is not None for text in texts)
    assert all(len(text) <= max(AROUND, MOST_SUBJECT) for text in texts)


@pytest.mark.parametrize(
    "body",
    [
        b'"subject":"' * 500_000,
        b'"subject": "' + b'", "' * 1_000_000,
        b'"ticket_id"' + b" " * 5_000_000,
        b'"ticket_id"' * 500_000,
        b'{"a": "' + b"\\u0000" * 900_000,
        b'{"a": 1, "a": 2}"' + b'\\"' * 2_500_000,
        b'{"a":' * 400 + b'{"a": 1, "a": 2}' + b" " * 5_000_000,
        b'{"b": {"a": 1, "a": 2}, "c": [' + b'"a", ' * 1_000_000,
        b'{"c": [' + b'{"a":1},' * 600_000 + b'1], "a": 1, "a": 2}',
        json.dumps({"subject": "\u202e<script>" * 300_000}).encode()[:-1],
    ],
)
def test_a_hostile_body_of_five_megabytes_is_searched_once(body: bytes) -> None:
    began = time.process_time()
    guess_of(body)
    small = time.process_time() - began
    began = time.process_time()
    mistake_in(body)
    whole = time.process_time() - began

    assert small < 1 > whole / 5, "a search that goes back and forth would take minutes"
