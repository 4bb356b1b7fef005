"""A reparse finds exactly what a saved e-mail lacks, and never changes a stored file."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from service.zendesk.body import Unreadable
from service.zendesk.parsing import columns_of, compare, fingerprint, headers_of, media_type, read
from service.zendesk.payloads import AnnouncedFile, Email

A, B, C = (f"https://acme.zendesk.com/attachments/token/{letter}/?name={letter}.pdf" for letter in "abc")


@dataclass(frozen=True)
class Kept:
    """A saved file."""

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
    """Return the columns of an e-mail from before there were fingerprints."""
    return {**columns_of(said), "account_id": "from a header", "reading_hash": None, **changed}


def test_an_email_equal_to_its_body_has_no_changes() -> None:
    said = email(announced(A), announced(B))

    assert not compare(kept(said), [Kept(0, A), Kept(1, B, status="stored")], said)


def test_an_equal_fingerprint_means_no_changes_after_any_look_up() -> None:
    said = email(comment_id="7", attachment_urls=None)
    record = kept(said, attachment_urls=[A], reading_hash=fingerprint(said))

    assert not compare(record, [Kept(0, A, status="stored")], said)


def test_an_overlooked_file_is_added() -> None:
    said = email(announced(A), announced(B))

    changes = compare(kept(said, attachment_urls=[]), [Kept(0, A, status="stored")], said)

    assert changes.added == [announced(B)]
    assert changes.fields == {"attachment_urls": [A, B]}
    assert (changes.corrected, changes.withdrawn) == ({}, [])


def test_a_body_that_now_needs_a_look_up_loses_its_list() -> None:
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
def test_an_address_that_was_two_becomes_two(wrong: str) -> None:
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
def test_a_wrongly_read_address_is_corrected_at_its_position(wrong: str, right: str) -> None:
    said = email(announced(right))

    changes = compare(kept(said), [Kept(3, wrong)], said)

    assert changes.corrected == {3: announced(right)}
    assert (changes.added, changes.withdrawn) == ([], [])


def test_an_address_with_the_beginning_of_another_is_a_separate_file() -> None:
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


def test_an_item_without_an_address_stays_while_it_is_announced() -> None:
    said = email(announced("", "a.pdf"))

    assert not compare(kept(said), [Kept(0, "", "a.pdf")], said)


@pytest.mark.parametrize("status", ["stored", "pending"])
def test_a_stored_file_stays_whatever_the_body_says(status: str) -> None:
    said = email(announced(A), announced(B))

    changes = compare(kept(said), [Kept(0, f"{A};{B}", status=status, sha256="0" * 64)], said)

    assert (changes.corrected, changes.withdrawn) == ({}, [])
    assert changes.added == [announced(A), announced(B)]


texts = st.sampled_from([A, B, C, "", f"{A};{B}", f"{B}{C}", "//x.example/1", "x"])


@given(
    st.lists(st.tuples(texts, st.sampled_from(["stored", "failed", "pending"])), max_size=6),
    st.lists(texts, max_size=6, unique=True),
)
def test_applied_changes_record_each_announced_file_and_leave_none(
    before: list[tuple[str, str]], urls: list[str]
) -> None:
    """After one application there are no changes left: a repeated command makes progress."""
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


def test_ten_thousand_addresses_are_compared_quickly() -> None:
    """The time grows with the number of files, and not with its square."""
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
def test_the_error_of_an_unreadable_body_says_whether_it_is_compressed(encoding: str, code: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(CIMultiDict({"Content-Encoding": encoding}), b"\x1f\x8b")

    assert caught.value.code == code
