"""Reading a body again tells exactly what a record lacks, and never touches what is stored."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from service.zendesk.body import Unreadable
from service.zendesk.payloads import AnnouncedFile, Email
from service.zendesk.reading import columns_of, compare, fingerprint, headers_of, media_type, read

A, B, C = (f"https://acme.zendesk.com/attachments/token/{letter}/?name={letter}.pdf" for letter in "abc")


@dataclass(frozen=True)
class Kept:
    """A file on record."""

    position: int
    source_url: str
    file_name: str | None = None
    status: str = "failed"
    sha256: str | None = None


def announced(url: str, name: str | None = None) -> AnnouncedFile:
    return AnnouncedFile(url, name, None, None)


def email(*files: AnnouncedFile, **more: Any) -> Email:
    fields: dict[str, Any] = {
        "ticket_id": "1",
        "subject": "Invoice",
        "from_email": None,
        "from_name": None,
        "sent_at": datetime(2026, 11, 29, tzinfo=UTC),
        "source_id": None,
        "account_id": None,
        "comment_id": None,
        "attachments": files,
        "attachment_urls": [file.url for file in files],
    }
    return Email(**{**fields, **more})


def kept(said: Email, **changed: object) -> dict[str, object]:
    """Give the columns of a record from before there were fingerprints."""
    return {**columns_of(said), "account_id": "from a header", "reading_hash": None, **changed}


def test_a_record_that_says_what_its_body_says_has_no_changes() -> None:
    said = email(announced(A), announced(B))

    assert not compare(kept(said), [Kept(0, A), Kept(1, B, status="stored")], said)


def test_what_was_read_alike_the_last_time_has_no_changes_whatever_was_looked_up_since() -> None:
    said = email(comment_id="7", attachment_urls=None)
    record = kept(said, attachment_urls=[A], reading_hash=fingerprint(said))

    assert not compare(record, [Kept(0, A, status="stored")], said)


def test_a_file_that_was_overlooked_is_added() -> None:
    said = email(announced(A), announced(B))

    changes = compare(kept(said, attachment_urls=[]), [Kept(0, A, status="stored")], said)

    assert changes.added == [announced(B)]
    assert changes.fields == {"attachment_urls": [A, B]}
    assert (changes.corrected, changes.withdrawn) == ({}, [])


def test_a_body_that_is_to_be_looked_up_now_loses_the_list_that_was_read() -> None:
    said = email(comment_id="", attachment_urls=None)

    changes = compare(kept(said, attachment_urls=[], comment_id=None), [], said)

    assert changes.fields == {"attachment_urls": None, "comment_id": ""}


@pytest.mark.parametrize(
    "wrong",
    [
        f"{A};{B}",
        f"{A}{B}",
        f"{A} | {B}",
        f"{A}, {B}\n",
        f"{A}<br>{B}",
        f'"{A}","{B}"',
        f"{A}; {B};",
    ],
)
def test_addresses_that_were_taken_for_one_become_two(wrong: str) -> None:
    said = email(announced(A), announced(B))

    changes = compare(kept(said), [Kept(0, C, status="stored"), Kept(1, wrong)], said)

    assert changes.corrected == {1: announced(A)}
    assert changes.added == [announced(B)]
    assert changes.withdrawn == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (
            "https://a.example/attachments/token/x/?a=1&amp;name=x",
            "https://a.example/attachments/token/x/?a=1&name=x",
        ),
        ("//a.example/attachments/token/x", "https://a.example/attachments/token/x"),
        ("a.example/attachments/token/x", "https://a.example/attachments/token/x"),
        ("<https://a.example/attachments/token/x>", "https://a.example/attachments/token/x"),
        (" https://a.example/attachments/token/x)", "https://a.example/attachments/token/x"),
    ],
)
def test_an_address_that_was_read_wrongly_is_corrected_in_its_place(wrong: str, right: str) -> None:
    said = email(announced(right))

    changes = compare(kept(said), [Kept(3, wrong)], said)

    assert changes.corrected == {3: announced(right)}
    assert (changes.added, changes.withdrawn) == ([], [])


def test_an_address_that_begins_like_another_is_a_file_of_its_own() -> None:
    said = email(announced("https://a.example/10"))

    changes = compare(kept(said), [Kept(0, "https://a.example/1"), Kept(1, "https://a.example/10?x=1")], said)

    assert (changes.corrected, changes.withdrawn) == ({}, [])
    assert changes.added == [announced("https://a.example/10")]


def test_an_item_without_an_address_becomes_the_file_of_its_name_or_is_withdrawn() -> None:
    said = email(announced(A, "a.pdf"), announced(B, "b.pdf"))

    changes = compare(kept(said), [Kept(0, B), Kept(1, "", "a.pdf"), Kept(2, "", "other.pdf")], said)

    assert changes.corrected == {1: announced(A, "a.pdf")}
    assert changes.withdrawn == [2]
    assert changes.added == []


def test_an_item_without_an_address_that_is_announced_still_stays() -> None:
    said = email(announced("", "a.pdf"))

    assert not compare(kept(said), [Kept(0, "", "a.pdf")], said)


@pytest.mark.parametrize("status", ["stored", "pending"])
def test_what_was_stored_once_stays_whatever_the_body_says(status: str) -> None:
    said = email(announced(A), announced(B))

    changes = compare(kept(said), [Kept(0, f"{A};{B}", status=status, sha256="0" * 64)], said)

    assert (changes.corrected, changes.withdrawn) == ({}, [])
    assert changes.added == [announced(A), announced(B)]


texts = st.sampled_from([A, B, C, "", f"{A};{B}", f"{B}{C}", "//x.example/1", "x"])


@given(
    st.lists(st.tuples(texts, st.sampled_from(["stored", "failed", "pending"])), max_size=6),
    st.lists(texts, max_size=6, unique=True),
)
def test_after_the_changes_each_announced_file_is_on_record_and_there_are_none_left(
    before: list[tuple[str, str]], urls: list[str]
) -> None:
    """Applied once, they leave nothing to change: a command that is run again goes on instead of going round."""
    said = email(*map(announced, urls))
    files = [Kept(position, url, status=status) for position, (url, status) in enumerate(before)]

    changes = compare(kept(said), files, said)
    after = [
        Kept(file.position, changes.corrected[file.position].url)
        if file.position in changes.corrected
        else file
        for file in files
        if file.position not in changes.withdrawn
    ]
    after += [Kept(100 + number, file.url) for number, file in enumerate(changes.added)]

    assert {file for file in files if file.status == "stored"} <= set(after)
    assert set(urls) <= {file.source_url for file in after}
    assert not compare(kept(said), after, said)


def test_ten_thousand_addresses_are_compared_at_once() -> None:
    """Work grows with the number of files, and not with its square."""
    urls = [f"https://a.example/attachments/token/{number}" for number in range(10_000)]
    said = email(*map(announced, urls))
    files = [Kept(number, f"{url};x") for number, url in enumerate(urls)]

    changes = compare(kept(said), files, said)

    assert len(changes.corrected) + len(changes.added) == 10_000


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("application/json; charset=utf-8", "application/json"),
        (" Application/VND.api+JSON ", "application/vnd.api+json"),
        ("", ""),
        (";;", ""),
    ],
)
def test_a_media_type_has_no_parameters_and_no_capitals(value: str, kind: str) -> None:
    assert media_type(headers_of([("content-type", value)])) == kind


def test_a_body_without_a_type_has_none() -> None:
    assert media_type(CIMultiDict()) == ""


@pytest.mark.parametrize(
    ("encoding", "code"), [("gzip", "compressed"), ("identity", "not_json"), ("", "not_json")]
)
def test_a_body_that_cannot_be_read_says_whether_it_is_compressed(encoding: str, code: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(CIMultiDict({"Content-Encoding": encoding}), b"\x1f\x8b")

    assert caught.value.code == code
