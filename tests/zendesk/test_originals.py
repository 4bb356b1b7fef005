"""The original of an e-mail is told from any other answer, and read for its date and subject."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.zendesk.originals import HEADER_BYTES, Original, read_original
from tests.support.examples import examples

ID = "<CAF1.b_2=x@mail.customer.example>"
SENT_AT = datetime(2026, 8, 17, 7, 34, 48, tzinfo=UTC)
EMAIL = (
    b"Received: from mx.customer.example (mx.customer.example [192.0.2.1])\r\n"
    b"\tby in.acme.example; Mon, 17 Aug 2026 09:34:50 +0200\r\n"
    b"From: Mia <mia@customer.example>\r\n"
    b"Date: Mon, 17 Aug 2026 09:34:48 +0200\r\n"
    b"Message-ID: <CAF1.b_2=x@mail.customer.example>\r\n"
    b"Subject: Invoice\r\n"
    b"\r\n"
    b"Message-ID: <other@customer.example>\r\n"
)


def with_header(name: str, value: bytes) -> bytes:
    """Write an e-mail with this header."""
    return b"Message-ID: " + ID.encode() + b"\r\n" + name.encode() + b":" + value + b"\r\n\r\nbody"


def subject(value: bytes) -> str | None:
    original = read_original(with_header("Subject", value), ID)
    assert original is not None
    return original.subject


def date(value: bytes) -> datetime | None:
    original = read_original(with_header("Date", value), ID)
    assert original is not None
    return original.date


def test_an_original_is_read() -> None:
    assert read_original(EMAIL, ID) == Original(SENT_AT, "Invoice")


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_lines_may_end_in_any_way(line_end: bytes) -> None:
    data = EMAIL.replace(b"\r\n", line_end)

    assert read_original(data, ID) == Original(SENT_AT, "Invoice")
    assert read_original(data, "<other@customer.example>") is None


@pytest.mark.parametrize(
    "written",
    [
        b"Message-ID: " + ID.encode(),
        b"Message-Id:" + ID[1:-1].encode(),
        b"MESSAGE-ID :\t" + ID.encode() + b"  ",
        b"Message-ID:\r\n " + ID.encode(),
        b"Message-ID: <CAF1.b_2=x\r\n\t@mail.customer.example>",
        b"Message-ID: <relay@x.example>\r\nMessage-ID: " + ID.encode(),
    ],
)
@pytest.mark.parametrize("wanted", [ID, ID[1:-1], f" {ID}\n"])
def test_a_message_id_is_compared_without_brackets_and_folds(written: bytes, wanted: str) -> None:
    assert read_original(b"From: m@x.example\r\n" + written + b"\r\n\r\nbody", wanted) == Original(None, None)


@pytest.mark.parametrize("wanted", [None, "", " ", "<>", "<other@customer.example>", ID.upper()])
def test_the_original_of_another_message_is_refused(wanted: str | None) -> None:
    """The second id stands in the body, and an id's letters differ by case."""
    assert read_original(EMAIL, wanted) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n" + EMAIL,
        b"Message-ID: \r\n\r\n" + EMAIL,
        b"<!DOCTYPE html>\r\n<title>Sign in:</title>\r\n" + EMAIL,
        b"<meta:a>\r\n" + EMAIL,
        b'{"error": "Forbidden"}\r\n' + EMAIL,
        b'{"a":1,\r\n"b":\r\n"' + EMAIL,
        b'["a":\r\n' + EMAIL,
        b'"a": 1\r\n' + EMAIL,
        b"Not found\r\n" + EMAIL,
        b"a title with spaces: x\r\n" + EMAIL,
        b"\xff\xd8\xff\xe0:" + EMAIL,
    ],
)
def test_another_answer_is_no_original(data: bytes) -> None:
    """A page, an error or a file may have the Message-ID, too."""
    assert read_original(data, ID) is None


def test_a_malformed_line_does_not_hide_the_headers_after_it() -> None:
    data = b"From: m@x.example\r\n>From m@x.example Mon Aug 17\r\nno header\r\n" + EMAIL

    assert read_original(data, ID) == Original(SENT_AT, "Invoice")


def test_headers_are_read_up_to_a_bound() -> None:
    """Longer headers count as far as they are read."""
    filler = b"X-Filler: " + b"x" * 990 + b"\r\n"
    within, beyond = filler * 250, filler * (HEADER_BYTES // len(filler) + 1)

    assert read_original(within + EMAIL, ID) == Original(SENT_AT, "Invoice")
    assert read_original(EMAIL[:-40].rstrip() + b"\r\n" + beyond, ID) == Original(SENT_AT, "Invoice")
    assert read_original(beyond + EMAIL, ID) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b" Invoice 4711", "Invoice 4711"),
        (b"", None),
        (b" =?utf-8?B?R3LDvMOfZQ==?=", "Grüße"),
        (b" =?UTF-8*de?q?Gr=C3=BC=C3=9Fe?= aus =?iso-8859-1?Q?K=F6ln?=", "Grüße aus Köln"),
        # A character and a word are split between two encoded words, over a fold.
        (b" =?utf-8?Q?Gr=C3?=\r\n =?utf-8?Q?=BC=C3=9Fe_?=\r\n\t=?utf-8?Q?an?= alle", "Grüße an alle"),
        (b" =?utf-8?Q?raw spaces?=", "raw spaces"),
        (b" =?koi8-u?B?8NLJ18XU?=", "Привет"),
        (b" =?windows-874?B?4Lc=?=", "เท"),
        (b" =?iso-8859-8-i?B?+Oz1?=", "רלץ"),
        ("Grüße 👩‍👩‍👧".encode(), "Grüße 👩‍👩‍👧"),
        ("Grüße".encode("windows-1252"), "Grüße"),
        # Unknown charsets, and bytes of another charset than named.
        (b"=?x-unknown?B?R3LDvMOfZQ==?=", "Grüße"),
        (b"=?zlib?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (b"=?utf-8?Q?K=F6ln?=", "Köln"),
        (b"=?us-ascii?Q?K=C3=B6ln?=", "Köln"),
        (b"=?utf-8?B?A?= end", "=?utf-8?B?A?= end"),
        (b"=?utf-8?Q?a=00b?=", "a\ufffdb"),
        (b" a\r\n  b", "a  b"),
        (b"x" * 5_000, "x" * 1_000),
    ],
)
def test_a_subject_is_decoded(value: bytes, expected: str | None) -> None:
    assert subject(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b" Mon, 17 Aug 2026 09:34:48 +0200 (CEST)", SENT_AT),
        (b" Mon, 17 Aug 2026\r\n 09:34:48 +0200", SENT_AT),
        (b" 17 Aug 26 07:34:48 GMT", SENT_AT),
        (b" Mon, 17 Aug 2026 07:34:48 -0000", SENT_AT),
        (b" Mon, 17 Aug 2026 07:34:48", SENT_AT),
        (b" Mon, 31 Feb 2026 07:34:48 +0000", None),
        (b" Mon, 17 Aug 2026 07:34:48 +9999999", None),
        (b" Fri, 31 Dec 9999 23:59:59 -1200", None),
        (b" 2026-08-17T07:34:48Z", None),
        (b" yesterday", None),
        (b"", None),
    ],
)
def test_a_date_is_read_in_utc(value: bytes, expected: datetime | None) -> None:
    assert date(value) == expected


_values = st.binary(max_size=60) | st.sampled_from([b" Mon, 17 Aug 2026 09:34:48 +0200", b"=?utf-8?B?R3I=?="])


@given(st.binary(max_size=300), st.text(st.characters(), max_size=20))
@settings(deadline=None, max_examples=examples(100))
def test_any_bytes_are_read_or_refused(data: bytes, message_id: str) -> None:
    """Bytes without the Message-ID's header are never an original."""
    original = read_original(data, message_id)

    assert original is None or b"message-id" in data.lower()


@given(
    st.binary(max_size=100),
    st.lists(
        st.tuples(st.sampled_from([b"Date", b"Subject", b"X-A", b"Message-ID", b"\xff"]), _values), max_size=6
    ),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=20),
)
@settings(deadline=None, max_examples=examples(100))
def test_an_original_with_any_other_headers_is_recognised(
    body: bytes, others: list[tuple[bytes, bytes]], local_part: str
) -> None:
    """The facts can be stored, whatever the headers are."""
    message_id = f"<{local_part}@x.example>"
    lines = [b"Message-ID: " + message_id.encode(), *(name + b":" + value for name, value in others)]

    original = read_original(b"\r\n".join(lines) + b"\r\n\r\n" + body, message_id)

    assert original is not None
    assert b"\0" not in (original.subject or "").encode()
    assert original.date is None or original.date.utcoffset() == timedelta(0)
