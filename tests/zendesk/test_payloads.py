"""Every readable part of an e-mail is read; any other body raises Unreadable and nothing else."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.zendesk.body import Unreadable
from service.zendesk.payloads import AnnouncedFile, Email, Ignored, parse, read_attachment
from tests.support.payloads import (
    ADDED,
    EVENT,
    FILE,
    OTHER_URL,
    TRIGGER,
    URL,
    assert_storable,
    read,
    write,
)

NOON = datetime(2026, 4, 28, 12, 0, tzinfo=UTC)
NAMELESS = AnnouncedFile(url=URL, file_name=None, content_type=None, size=None)
WITHOUT_URL = AnnouncedFile(url="", file_name=None, content_type=None, size=None)


def read_attachments(attachments: object) -> tuple[AnnouncedFile, ...]:
    return read({"ticket_id": 1, "attachments": attachments}).attachments


def refusal(body: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        parse(body)
    assert caught.value.message
    return caught.value.code


def test_the_documented_trigger_is_read() -> None:
    """Every field of the documented body has its place."""
    assert read(TRIGGER) == Email(
        ticket_id="35436",
        subject="Invoice",
        from_email="mia@example.com",
        from_name="Mia",
        sent_at=NOON,
        source_id="35436-8658726228478",
        account_id=None,
        comment_id=None,
        attachments=(AnnouncedFile(URL, "invoice.pdf", "application/pdf", 1024),),
        attachment_urls=[
            {"url": URL, "filename": "invoice.pdf", "content_type": "application/pdf", "size": "1024"},
        ],
    )


def test_a_minimal_trigger_with_an_empty_comment_is_not_an_email_without_files() -> None:
    email = read({"ticket_id": "35436", "comment_id": ""})

    assert (email.comment_id, email.attachment_urls) == ("", None)


def test_a_minimal_trigger_is_read() -> None:
    """Ticket and comment are enough: the API has the rest."""
    email = read({"ticket_id": "35436", "comment_id": 8658726228478, "webhook_id": ""})

    assert (email.ticket_id, email.comment_id, email.source_id) == ("35436", "8658726228478", None)
    assert (email.attachments, email.attachment_urls) == ((), None)


@pytest.mark.parametrize(
    ("payload", "ticket_id"),
    [
        ({"ticket_id": "35436"}, "35436"),
        ({"ticket_id": 35436}, "35436"),
        ({"ticket_id": 35436.0}, "35436"),
        ({"ticket_id": " 35436\n"}, "35436"),
        ({"ticket_id": 12345678901234567890123456}, "12345678901234567890123456"),
        ({"ticket_id": 0}, "0"),
        ({"ticket_id": "a\0b"}, "a\ufffdb"),
        ({"ticket_id": "9" * 200}, "9" * 200),
        ({"ticketId": "35436"}, "35436"),
        ({"ticketID": "35436"}, "35436"),
        ({"TICKET-ID": "35436"}, "35436"),
        ({"Ticket ID": "", "ticketid": 35436}, "35436"),
        ({"ticket": {"ticket_id": 35436}}, "35436"),
        ({"id": 35436}, "35436"),
        ({"ticket": {"id": 35436, "subject": "Invoice"}}, "35436"),
        ({"id": "01HZX", "ticket": {"id": 35436}}, "35436"),
        ({"id": "01HZX", "ticketId": 7, "ticket_id": 35436}, "35436"),
        ({"ticket_id": "", "id": "35436"}, "35436"),
        ({"ticket_id": "#35436"}, "35436"),
        ({"id": "# 35436"}, "35436"),
        ({"ticket": "35436", "id": "98765"}, "35436"),
        ({"ticket": "Your invoice", "id": "35436"}, "35436"),
        ({"Ticket": {"Id": "35436"}, "id": "evt-2"}, "35436"),
        ({"data": {"ticket_id": "35436"}, "id": "evt-1"}, "35436"),
        ({"requester": {"ticket_id": "7"}, "id": "35436"}, "35436"),
        ({"problem": {"ticket_id": "7"}, "id": "35436"}, "35436"),
        ({"problem": {"ticket_id": "7"}, "data": {"ticket_id": "35436"}, "id": "98765"}, "35436"),
        ({"custom": {"ticket_id": "none"}, "id": "35436"}, "35436"),
        ({"links": {"Ticket ID": "https://acme.zendesk.com/tickets/7"}, "id": "evt-1"}, "evt-1"),
        ({"ticket_id": True, "ticketId": [1], "id": "35436"}, "35436"),
        ({"ticket_id": "35436", "type": "zen:event-type:ticket.created", "id": "x"}, "35436"),
        ({"ticket_id": "35436", "type": "question"}, "35436"),
    ],
)
def test_the_ticket_is_found_in_every_spelling(payload: dict[str, object], ticket_id: str) -> None:
    """`ticket_id` comes first, a bare `id` last."""
    assert read(payload).ticket_id == ticket_id


def test_the_account_in_a_triggers_body_is_not_zendesks() -> None:
    """It may be the number of a customer."""
    assert read({"ticket_id": 1, "account_id": "ACME-77"}).account_id is None
    assert read({"ticket": {"id": 1, "account_id": 77}}).account_id is None


@pytest.mark.parametrize(
    ("sent", "subject"),
    [
        ({"subject": "Invoice"}, "Invoice"),
        ({"title": "Invoice"}, "Invoice"),
        ({"subject": "", "title": "Invoice"}, "Invoice"),
        ({"ticket": {"subject": "Invoice"}}, "Invoice"),
        ({"subject": "", "ticket": {"title": "Invoice"}}, "Invoice"),
        ({"subject": 5}, "5"),
        ({"subject": 1.5}, "1.5"),
        ({"subject": "a\0b\ud800c"}, "a\ufffdb\ufffdc"),
        ({"subject": "\ud83d\ude00"}, "😀"),
        ({"subject": True}, None),
        ({"subject": ["Invoice"]}, None),
        ({"subject": {}}, None),
        ({"subject": None}, None),
        ({"subject": "  "}, None),
        ({}, None),
    ],
)
def test_texts_are_cleaned_for_postgres(sent: dict[str, object], subject: str | None) -> None:
    """NUL and lone surrogates are replaced, numbers are written out, other types become None."""
    assert read({"ticket_id": 1} | sent).subject == subject


@pytest.mark.parametrize(
    ("received_at", "sent_at"),
    [
        ("2026-04-28T12:00:00Z", NOON),
        ("2026-04-28 14:00:00 +0200", NOON),
        ("Tue, 28 Apr 2026 14:00:00 +0200", NOON),
        ("Tue, 28 Apr 2026 05:00:00 -0700 (PDT)", NOON),
        ("28 Apr 2026 12:00 GMT", NOON),
        ("Tue, 28 Apr 2026 12:00:00 -0000", NOON),
        (1777377600, NOON),
        ("1777377600", NOON),
        (1777377600000, NOON),
        (1777377600.25, NOON + timedelta(milliseconds=250)),
        ("April 28, 2026", None),
        ("28/04/26 12:00", None),
        ("Tue, 28 Apr 2026 12:00:00 CEST", None),
        ("Tue, 31 Feb 2026 12:00:00 +0000", None),
        ("Fri, 31 Dec 9999 23:59:59 -1200", None),
        ("1 Foo 2026 12:00 GMT", None),
        ("28 Apr 2026 12:00:00 +9999", None),
        ("9" * 400, None),
        (-1e300, None),
        (True, None),
        ({}, None),
        ("", None),
    ],
)
def test_the_date_of_the_email_is_read_or_left_out(received_at: object, sent_at: datetime | None) -> None:
    """ISO-8601, RFC 2822 and seconds since 1970 are unambiguous; other dates are not guessed."""
    assert read({"ticket_id": 1, "received_at": received_at}).sent_at == sent_at


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"url": URL}, NAMELESS),
        ({"content_url": URL}, NAMELESS),
        ({"url": "https://acme.zendesk.com/api/v2/attachments/1.json", "content_url": URL}, NAMELESS),
        ({"url": f" {URL}\n", "filename": ""}, NAMELESS),
        ({"url": URL, "filename": "a.pdf"}, replace(NAMELESS, file_name="a.pdf")),
        ({"url": URL, "fileName": "a.pdf"}, replace(NAMELESS, file_name="a.pdf")),
        ({"url": URL, "file_name": "a.pdf"}, replace(NAMELESS, file_name="a.pdf")),
        ({"url": URL, "filename": "../a\0.pdf"}, replace(NAMELESS, file_name="../a\ufffd.pdf")),
        ({"url": URL, "contentType": "text/plain"}, replace(NAMELESS, content_type="text/plain")),
        ({"url": URL, "content_type": {}}, NAMELESS),
        ({"url": URL, "size": 12}, replace(NAMELESS, size=12)),
        ({"url": URL, "size": "12"}, replace(NAMELESS, size=12)),
        ({"url": URL, "size": 12.0}, replace(NAMELESS, size=12)),
        ({"url": URL, "size": 0}, replace(NAMELESS, size=0)),
        ({"url": URL, "size": -1}, NAMELESS),
        ({"url": URL, "size": "12 KB"}, NAMELESS),
        ({"url": URL, "size": "١٢"}, NAMELESS),
        ({"url": URL, "size": 10**30}, NAMELESS),
        ({"url": URL, "size": True}, NAMELESS),
        (URL, NAMELESS),
        ([URL], NAMELESS),
    ],
)
def test_an_attachment_is_read_in_every_spelling(item: object, expected: AnnouncedFile) -> None:
    email = read({"ticket_id": 1, "attachments": [item]})

    assert (email.attachments, email.attachment_urls) == ((expected,), [item])


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"filename": "a.pdf"}, replace(WITHOUT_URL, file_name="a.pdf")),
        ({"filename": "a.pdf", "url": ""}, replace(WITHOUT_URL, file_name="a.pdf")),
        ({"id": 5}, WITHOUT_URL),
        ("a.pdf", replace(WITHOUT_URL, file_name="a.pdf")),
        (5, replace(WITHOUT_URL, file_name="5")),
        (False, WITHOUT_URL),
        ({"url": "", "filename": ""}, WITHOUT_URL),
        ({"url": "https://acme.zendesk.com/api/v2/attachments/1.json"}, WITHOUT_URL),
        ({"url": "https://acme.zendesk.com/agent/tickets/1"}, WITHOUT_URL),
    ],
)
def test_a_file_without_an_address_is_looked_up(item: object, expected: AnnouncedFile) -> None:
    """The webhook announces it, so the e-mail must not complete without it; the API may know the address."""
    alone, beside = (read({"ticket_id": 1, "attachments": items}) for items in ([item], [item, URL]))

    named = (
        (expected,) if expected.file_name == "a.pdf" else ()
    )  # so that the look-up must find one of this name
    assert (alone.attachments, alone.attachment_urls, alone.comment_id) == (named, None, "")
    assert (beside.attachments, beside.attachment_urls, beside.comment_id) == ((NAMELESS, *named), None, "")
    assert read_attachment(item) == expected


@pytest.mark.parametrize(
    ("attachments", "count"),
    [
        (None, 0),
        ("", 0),
        ("  ", 0),
        ("[]", 0),
        ("null", 0),
        ([], 0),
        ({}, 0),
        ([{}, "", None], 0),
        ([{"url": URL}, {}], 1),
        ({"url": URL}, 1),
        (URL, 1),
        (f" {URL}\n", 1),
        (f"{URL} {OTHER_URL}", 2),
        (f"{URL}, {OTHER_URL}, ", 2),
        (f"{URL},{OTHER_URL}", 2),
        (json.dumps([{"url": URL}, OTHER_URL]), 2),
        (json.dumps([URL]), 1),
        (json.dumps({"url": URL}), 1),
        ([{"url": URL}, {"url": URL}], 1),
        (f"{URL} {URL}", 1),
        ([f"{URL}&n={n}" for n in range(70)], 1),
        ([URL.replace("kPg", str(n)) for n in range(70)], 70),
    ],
)
def test_attachments_are_counted_as_announced(attachments: object, count: int) -> None:
    """An empty item of a template is no file, a quoted list is a list, and a repeated file is one."""
    assert len(read_attachments(attachments)) == count


@pytest.mark.parametrize(
    "attachments",
    [5, 1e400, True, False, "2 files", '[{"url": ', '"a.pdf"', "[" * 5000],
)
def test_attachments_that_cannot_be_read_are_refused(attachments: object) -> None:
    """The announced files are unknown: the body is quarantined for a better parser."""
    assert refusal(write({"ticket_id": 1, "attachments": attachments})) == "wrong_shape"


@pytest.mark.parametrize(
    ("attachments", "kept"),
    [
        (
            '[{"url": "https://a/\\u0000b", "x": [1.5, {}]}, "", null]',
            [{"url": "https://a/\0b", "x": [1.5, {}]}, "", None],
        ),
        ('{"url": "https://a"}', [{"url": "https://a"}]),
        ('"[{}]"', [{}]),
        (
            '[{"url": "https://a", "id": 12345678901234567890123456}]',
            [{"url": "https://a", "id": 12345678901234567890123456}],
        ),
        ('[{"url": "https://a", "x": [1e400, -1e400]}]', [{"url": "https://a", "x": ["1e400", "-1e400"]}]),
    ],
)
def test_the_list_is_kept_unchanged(attachments: str, kept: list[object]) -> None:
    """No item is removed or cleaned; a number that JSON cannot write is kept as its digits."""
    email = parse(f'{{"ticket_id": 1, "attachments": {attachments}}}'.encode())

    assert isinstance(email, Email)
    assert email.attachment_urls == kept
    assert_storable(email)


@pytest.mark.parametrize(
    "body",
    [
        '{"ticket_id": 1, "subject": "Grüße €"}'.encode(),
        b'\xef\xbb\xbf{"ticket_id": 1, "subject": "Gr\xc3\xbc\xc3\x9fe \xe2\x82\xac"}',
        '{"ticket_id": 1, "subject": "Grüße €"}'.encode("utf-16"),
        '\ufeff{"ticket_id": 1, "subject": "Grüße €"}'.encode("utf-16-be"),
        '{"ticket_id": 1, "subject": "Grüße €"}'.encode("utf-32"),
        '\ufeff{"ticket_id": 1, "subject": "Grüße €"}'.encode("utf-32-be"),
        '{"ticket_id": 1, "subject": "Grüße €"}'.encode("windows-1252"),
        b'{"ticket_id": 1, "subject": "Gr\xc3\xbc\xdfe \xe2\x82\xac"}',
        b'\xef\xbb\xbf{"ticket_id": 1, "subject": "Gr\xfc\xdfe \x80"}',
    ],
)
def test_the_subject_is_read_in_every_encoding(body: bytes) -> None:
    """A byte that is not UTF-8 is read as windows-1252, and changes no other byte."""
    email = parse(body)

    assert isinstance(email, Email)
    assert email.subject == "Grüße €"


def test_raw_control_characters_within_a_text_are_read() -> None:
    """A template that does not escape a comment leaves its line breaks bare."""
    email = parse(b'{"ticket_id": "1", "subject": "a\r\n\tb\x00c"}')

    assert isinstance(email, Email)
    assert email.subject == "a\r\n\tb\ufffdc"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\0",
        b"\xff",
        b"\xff\xfe",
        b"\xff\xfe{",
        b"\x00\x00\xfe\xff",
        b"\xef\xbb\xbf",
        b"ticket_id=35436",
        b"<ticket><id>35436</id></ticket>",
        b'{"ticket_id": 35436',
        b'{"ticket_id": 35436,}',
        b'{"ticket_id": 35436 "subject": ""}',
        b'{"ticket_id": 35436, "organizationId": , "subject": ""}',
        b'{"ticket_id": 35436, "subject": "He said "yes""}',
        b'{"ticket_id": 35436, "attachments": [{"url": "x"},]}',
        b'{"ticket_id": 35436, "subject": "\\u12"}',
        b'{"ticket_id": 35436, "subject": "\\x"}',
        b"{'ticket_id': 35436}",
        b'{"ticket_id": NaN}',
        b'{"ticket_id": 35436, "size": Infinity}',
        b'{"ticket_id": 35436, "size": -Infinity}',
        b'{"ticket_id": 035436}',
        b'{"ticket_id": 35436} {"ticket_id": 35437}',
        b'{"ticket_id": ' + b"9" * 5000 + b"}",
        b"[" * 50,
        b'{"a":' * 50,
    ],
)
def test_broken_json_is_refused(body: bytes) -> None:
    """Results of templates with quotes, empty values and loops; the bytes are quarantined."""
    assert refusal(body) == "not_json"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", "wrong_shape"),
        (b'[{"ticket_id": 1}]', "wrong_shape"),
        (b"null", "wrong_shape"),
        (b'"35436"', "wrong_shape"),
        (b"35436", "wrong_shape"),
        (b"1e400", "wrong_shape"),
        (b'{"ticket_id": "' + b"9" * 201 + b'"}', "wrong_shape"),
        (b'{"ticket_id": ' + b"9" * 201 + b"}", "wrong_shape"),
        (b"{}", "no_ticket"),
        (b'{"ticket_id": ""}', "no_ticket"),
        (b'{"ticket_id": null, "id": [], "ticketId": {}, "ticketID": true}', "no_ticket"),
        (b'{"ticket": {"subject": "x"}}', "no_ticket"),
        (b'{"type": "zen:event-type:ticket.created", "id": "030a3f7a"}', "no_ticket"),
        (b'{"type": "zen:event-type:ticket.created", "subject": "zen:ticket:"}', "no_ticket"),
        (b'{"type": "zen:event-type:ticket.created", "subject": "zen:user:5"}', "no_ticket"),
    ],
)
def test_json_without_a_ticket_is_refused(body: bytes, code: str) -> None:
    """The body is JSON, but its ticket is unknown."""
    assert refusal(body) == code


@pytest.mark.parametrize("levels", [101, 500, 990, 10_000, 100_000])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")],
    ids=["lists", "objects", "both"],
)
def test_deep_nesting_is_refused_on_every_python(levels: int, opening: bytes, closing: bytes) -> None:
    """Some versions could read it and none could write it again; all refuse it."""
    deep = opening * levels + b"1" + closing * levels

    assert refusal(deep) == "wrong_shape"
    assert refusal(b'{"ticket_id": 1, "attachments": ' + deep + b"}") == "wrong_shape"
    assert refusal(b'{"ticket_id": 1, "custom_fields": ' + deep + b"}") == "wrong_shape"


def test_moderate_nesting_is_read() -> None:
    """Ninety levels in an unused field cost no e-mail."""
    assert parse(b'{"ticket_id": 1, "x": ' + b"[" * 90 + b"]" * 90 + b"}") == read({"ticket_id": 1})


def test_the_event_of_a_linked_file_is_read() -> None:
    """One event, one file."""
    assert read(EVENT) == Email(
        ticket_id="19395",
        subject="Logo",
        from_email=None,
        from_name=None,
        sent_at=datetime(2025, 1, 14, 19, 31, 42, 692_223, tzinfo=UTC),
        source_id="030a3f7a-9bb9-47a4-9a36-6aa8f1d66783",
        account_id="22129848",
        comment_id="8658726228478",
        attachments=(AnnouncedFile(str(FILE["content_url"]), "logo.jpeg", "image/jpeg", None),),
        attachment_urls=[FILE],
    )


def test_the_event_of_a_comment_is_read() -> None:
    """It names the author and the comment; only the API knows whether the comment has files."""
    email = read(ADDED)

    assert (email.ticket_id, email.comment_id, email.from_name) == ("19395", "8658726228479", "Mia")
    assert (email.attachments, email.attachment_urls) == ((), None)


@pytest.mark.parametrize(
    "changed",
    [
        {"detail": {"id": 19395}},
        {"detail": {"id": ""}},
        {"detail": {}},
        {"detail": None},
        {"detail": "19395"},
        {"detail": [19395]},
        {"detail": {"id": "19395"}, "subject": None},
        {"event": None},
        {"event": {"comment": "x"}},
        {"event": {"comment": {"attachment": 5, "author": "Mia", "id": {}}}},
        {"event": {"comment": {"attachment": [FILE]}}},
        {"time": 5, "id": None, "account_id": {}},
    ],
)
@pytest.mark.parametrize("event", [EVENT, ADDED])
def test_an_event_of_unknown_structure_keeps_its_ticket(
    event: dict[str, Any], changed: dict[str, Any]
) -> None:
    """The ticket is in `detail` and in `subject`; either is enough."""
    assert read(event | changed).ticket_id == "19395"


@pytest.mark.parametrize(
    "comment",
    [None, {}, {"attachment": {}}, {"attachment": None}, {"attachments": []}, {"attachment": {"id": 5}}],
)
def test_a_linked_file_at_an_unknown_place_is_looked_up(comment: object) -> None:
    """The type proves that there is a file, even if the rest of the event shows none."""
    email = read(EVENT | {"event": {"comment": comment}})

    assert (email.attachments, email.attachment_urls, email.comment_id) == ((), None, "")


def test_a_linked_file_is_found_anywhere_in_its_event() -> None:
    assert read(EVENT | {"event": {"attachment": FILE}}).attachments == read(EVENT).attachments


@pytest.mark.parametrize(
    ("kind", "cleaned"),
    [
        ("zen:event-type:ticket.status_changed", "zen:event-type:ticket.status_changed"),
        ("zen:event-type:user.created", "zen:event-type:user.created"),
        ("zen:event-type:messaging_ticket.message_added", "zen:event-type:messaging_ticket.message_added"),
        ("zen:event-type:", "zen:event-type:"),
        ("zen:event-type:a\0\ud800", "zen:event-type:a\ufffd\ufffd"),
    ],
)
def test_an_event_of_an_unused_type_is_ignored(kind: str, cleaned: str) -> None:
    """It is no error, and need not name a ticket."""
    event = EVENT | {"type": kind, "subject": "zen:user:5", "detail": {"id": "5"}, "event": {"current": "x"}}

    assert parse(write(event)) == Ignored(cleaned)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": None},
        {"id": "35436"},
        {"account_id": ""},
        {"subject": None},
        {"detail": None},
        {"detail": "x"},
        {"event": None},
    ],
)
def test_a_trigger_with_the_type_of_an_event_is_refused(changed: dict[str, object]) -> None:
    """A sender's quotation mark can add a `type` to a trigger's body: the e-mail must not vanish."""
    assert refusal(write(EVENT | {"type": "zen:event-type:user.created"} | changed)) == "wrong_shape"


@pytest.mark.parametrize(
    "added",
    [
        {"ticket_id": 7},
        {"Ticket-ID": "7"},
        {"attachments": []},
        {"attachment_urls": ""},
        {"commentId": "5"},
        {"from_email": "mia@example.com"},
        {"webhook_id": "x"},
        {"title": "x"},
        {"ticket": {}},
    ],
)
def test_an_event_with_a_key_of_a_trigger_is_an_email(added: dict[str, object]) -> None:
    assert read(EVENT | {"type": "zen:event-type:user.created"} | added).ticket_id in {"7", "19395"}
