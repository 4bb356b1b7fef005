"""Limits of the search for files: sizes, counts and time."""

import json
import time
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.outbound.addresses import MOST_ADDRESS
from service.zendesk.body import Unreadable
from service.zendesk.names import name_of
from service.zendesk.payloads import MOST_ATTACHMENTS, Email, parse
from tests.support.examples import examples
from tests.support.payloads import JOINTS, A, B, json_values, read, urls, write


@pytest.mark.parametrize(
    "items",
    ["1," * 250_000 + "1", '"a",' * 250_000 + '"a"', '{"a":1},' * 125_000 + "1", f'"{A}",' * 15_000 + "1"],
)
def test_too_many_items_are_counted_and_not_read(items: str) -> None:
    body = '{"ticket_id":1,"attachments":[' + items + "]}"

    with pytest.raises(Unreadable, match="10,000") as caught:
        parse(body.encode())

    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize(
    "said",
    [
        {"attachments": [[A.replace("kPg", str(n))] for n in range(MOST_ATTACHMENTS + 1)]},
        {"attachments": " ".join(A.replace("kPg", str(n)) for n in range(MOST_ATTACHMENTS + 1))},
        {"body_html": " ".join(A.replace("kPg", str(n)) for n in range(MOST_ATTACHMENTS + 1))},
        {f"file_{n}": A.replace("kPg", str(n)) for n in range(MOST_ATTACHMENTS + 1)},
    ],
)
def test_too_many_files_are_refused_at_any_place(said: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match="10,000"):
        read({"ticket_id": 1, **said})


def test_as_many_files_as_can_be_recorded_are_read() -> None:
    told = [A.replace("kPg", str(n)) for n in range(MOST_ATTACHMENTS)]

    assert urls(attachments=told) == told


@pytest.mark.parametrize("length", [MOST_ADDRESS + 1, 60_000, 900_000])
@pytest.mark.parametrize(
    "address", ["https://{}/attachments/token/x", "https://acme.zendesk.com/attachments/token/{}"]
)
def test_too_long_an_address_stays_a_file_that_fails_to_parse(address: str, length: int) -> None:
    """It is cut, but stays longer than any valid address, so that its file fails with a reason."""
    (file,) = read({"ticket_id": 1, "attachments": [{"url": address.format("x" * length)}]}).attachments
    url = file.url

    assert MOST_ADDRESS < len(url) < MOST_ADDRESS + 10
    assert url.endswith("…[cut]")


@pytest.mark.parametrize(
    "said",
    [
        {"body_text": ("https://a/attachments" + "/" * 8100 + " ") * 12},
        {"attachments": ["https://a/" + "/" * 200_000 + "x"]},
        {"attachments": ["https://a/attachments" + "/" * 200_000 + "x"]},
        {"body_html": "/attachments/token" + "/" * 500_000},
    ],
)
def test_many_slashes_take_linear_time(said: dict[str, object]) -> None:
    """In quadratic time, the test would exceed its timeout."""
    read({"ticket_id": 1, "comment_id": 5, **said})


def test_two_equally_near_comments_name_none() -> None:
    """A quotation mark in a subject may have added one of them, so all comments of that time are taken."""
    email = read({"ticket_id": 1, "comment_id": 5, "latest_comment_id": 4})

    assert (email.comment_id, email.attachment_urls) == ("", None)


@pytest.mark.parametrize(
    "said",
    [
        {"order": {"documents": []}},
        {"satisfaction": {"files": []}},
        {"inline_attachments": []},
        {"uploads": []},
        {"file": []},
    ],
)
def test_an_empty_list_of_another_object_does_not_mean_no_files(
    said: dict[str, object],
) -> None:
    assert read({"ticket_id": 1, **said}).attachment_urls is None


def test_files_that_are_only_counted_must_be_found_by_the_look_up() -> None:
    email = read({"ticket_id": 1, "attachments": [A], "attachment_count": "3 files"})

    assert email.attachment_urls is None
    assert [file.url for file in email.attachments] == [A, "", ""]


@pytest.mark.parametrize(
    ("item", "count"),
    [
        ({"url": A, "Url": B}, 2),
        ({"link1": A, "link2": B}, 2),
        ({"url": "https://f.example/a.pdf;https://f.example/b.pdf"}, 2),
        (f"{A};//p2.zdusercontent.com/attachment/2/b?token=y", 2),
        (f"{A};p2.zdusercontent.com/attachment/2/b?token=y", 2),
        (f"{A},/attachments/token/BBB/", 2),
        ("https://f.example/a.pdf,/attachments/token/BBB/", 2),
    ],
)
def test_joined_addresses_are_all_found(item: object, count: int) -> None:
    assert len(read({"ticket_id": 1, "attachments": [item]}).attachments) == count


def test_two_addresses_in_fields_of_one_meaning_are_looked_up() -> None:
    item = {"url": "https://f.example/a.pdf", "Url": "https://f.example/b.pdf"}

    assert read({"ticket_id": 1, "attachments": [item]}).attachment_urls is None


def test_a_file_name_is_bounded() -> None:
    (file,) = read({"ticket_id": 1, "attachments": [{"url": A, "filename": "x" * 900_000}]}).attachments

    assert file.file_name == "x" * 1000


PIECES = [
    *(
        "https://",
        "http",
        A,
        "https://a/attachments/token/x",
        "/attachments/token/x;",
        "attachments/",
        "attachments",
    ),
    *(
        "\\",
        "\\/",
        "\\u0041",
        "&",
        "&amp;",
        "&lt;",
        "<",
        "<br>",
        " ",
        "\n",
        "(",
        ")",
        "]",
        "'",
        '"',
        "/",
        "//",
        " //",
    ),
    *(
        "%25",
        "attachments%252f",
        "attachments///",
        "zdusercontent.com/",
        "a.zdusercontent.com/",
        "a.",
        "a",
        "@",
        "ü",
    ),
    *("[", "{", "[]", '{"a":', "9", ",", ";a", "=", "?", "#"),
]


def seconds_to_read(piece: str, key: str, size: int) -> float:
    """Return the least processor time: it does not depend on other processes."""
    text = f"attachments zdusercontent {A} https://" + piece * (size // len(piece))
    body = json.dumps({"ticket_id": 1, key: text, text: 1}).encode()
    times = []
    for _ in range(3):
        began = time.process_time()
        with suppress(Unreadable):
            parse(body)
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize("piece", PIECES)
def test_any_text_takes_linear_time(piece: str) -> None:
    """Eight times the text takes about eight times as long; quadratic time would be 64 times."""
    for key in ("body_html", "attachment", "x"):
        assert seconds_to_read(piece, key, 80_000) < 30 * max(seconds_to_read(piece, key, 10_000), 0.001)


# Results of templates


tokens = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8, max_size=24)
tokens = tokens.filter(lambda token: "Infinity" not in token)  # `write` writes it as a number
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8).map("{}.pdf".format)
hosts = st.sampled_from(["acme.zendesk.com", "eu.zendesk.com", "support.acme.example", "127.0.0.1:8080"])
attachments = st.builds("https://{}/attachments/token/{}/?name={}".format, hosts, tokens, names)
cdn = st.builds(
    "https://p{}.zdusercontent.com/attachment/{}?token={}".format, st.integers(1, 30), tokens, tokens
)
addresses = st.lists(attachments | cdn, max_size=5, unique=True)
keys = st.sampled_from(
    [
        "attachments",
        "AnnouncedFile",
        "files",
        "document",
        "x",
        "comment",
        "latest_comment",
        "data",
        "ticket",
        "Anlage 1",
    ]
) | st.text(st.characters(), max_size=8)


def _wrap(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.tuples(inner).map(list)
        | st.builds(lambda key, value: {key: value}, keys, inner)
        | st.builds(lambda value, noise: [noise, value], inner, json_values)
        | st.builds(lambda key, value, noise: {"noise": noise, key: value}, keys, inner, json_values)
        | inner.map(json.dumps)
    )


@st.composite
def placements(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    told = draw(addresses)
    joint = draw(st.sampled_from(JOINTS))
    shape = draw(st.sampled_from(["text", "list", "objects", "html", "joined item"]))
    value: Any = {
        "text": joint.join(told),
        "list": told,
        "objects": [
            {draw(st.sampled_from(["url", "content_url", "href"])): url, "filename": "x"} for url in told
        ],
        "html": "".join(f'<p>x</p><img src="{url.replace("&", "&amp;")}">' for url in told),
        "joined item": [joint.join(told)],
    }[shape]
    for _ in range(draw(st.integers(0, 4))):
        value = draw(_wrap(st.just(value)))
    return {"ticket_id": 1, draw(keys.filter(lambda key: key != "ticket_id")): value}, told


@given(placements())
@settings(deadline=None, max_examples=examples(80))
def test_files_in_any_combination_are_found_or_looked_up(
    placed: tuple[dict[str, Any], list[str]],
) -> None:
    """No e-mail completes without one of its files."""
    body, told = placed
    try:
        email = parse(write(body))
    except Unreadable:
        return  # in quarantine, where an operator sees it

    assert isinstance(email, Email)
    found = {file.url for file in email.attachments}
    assert email.attachment_urls is None or found >= set(told)


@given(
    st.dictionaries(st.text(st.characters(), max_size=6), json_values, max_size=4),
    st.text(st.characters(), max_size=6),
    json_values,
    json_values,
    st.integers(0, 4),
)
@settings(deadline=None, max_examples=examples(50))
def test_a_duplicate_key_never_drops_a_value_silently(
    others: dict[str, Any], key: str, one: Any, other: Any, depth: int
) -> None:
    def member(value: Any) -> str:
        return f"{json.dumps(key)}: {write(value).decode()}"

    inner = (
        "{"
        + ", ".join([member(one), *(f"{json.dumps(k)}: 1" for k in others if k != key), member(other)])
        + "}"
    )
    body = '{"ticket_id": 1, "x": ' + "[" * depth + inner + "]" * depth + "}"

    is_same = write(one) == write(other)
    is_joined = name_of(key).is_files and all(
        isinstance(value, list | dict | str | None) for value in (one, other)
    )
    with nullcontext() if is_same or is_joined else pytest.raises(Unreadable, match="occurs twice"):
        parse(body.encode())


@pytest.mark.parametrize("key", ["url", "note"])
def test_many_fields_beside_many_addresses_of_one_file_take_little_time(key: str) -> None:
    """It took 40 s, or 5 s for fields without addresses: each field was compared with each address."""
    addresses = " ".join(f"https://acme.zendesk.com/attachments/token/{n:x}" for n in range(9_900))
    beside = {f"{key}{n}": f"https://q.example/{n}" for n in range(10_000)}
    body = json.dumps({"ticket_id": 1, "attachments": [{"url": addresses, **beside}]}).encode()

    began = time.process_time()
    email = parse(body)

    assert len(email.attachments) == 9_900  # type: ignore[union-attr]
    assert time.process_time() - began < 2
