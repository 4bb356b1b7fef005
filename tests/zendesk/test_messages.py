"""A comment of a ticket is read as a message, whatever else Zendesk's answer contains."""

import json
from collections.abc import Callable
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Transient
from service.zendesk.body import Unreadable, read_json
from service.zendesk.messages import (
    MOST_CHARACTERS,
    MOST_RECIPIENTS,
    TEXT_BYTES,
    Body,
    CommentMessage,
    ListedFile,
    Person,
    TicketFacts,
    cut_text,
    read_page,
    read_record,
    read_tickets,
)
from tests.support.examples import examples
from tests.support.payloads import json_values, write

HOST = "https://acme.zendesk.com/attachments/token"
PDF = {
    "id": 498483,
    "file_name": "invoice.pdf",
    "content_url": f"{HOST}/kPg/?name=invoice.pdf",
    "content_type": "application/pdf",
    "size": 2532,
    "inline": False,
    "deleted": False,
    "malware_access_override": False,
    "malware_scan_result": "malware_not_found",
    "thumbnails": [],
}
SOURCE: dict[str, Any] = {
    "from": {
        "name": "Mia",
        "address": "mia@customer.example",
        "original_recipients": ["help@acme.example", "boss@customer.example", "copy@customer.example"],
    },
    "to": {"name": "Acme", "address": "help@acme.example", "email_ccs": [1_002, "other@customer.example"]},
    "rel": None,
}
EMAIL: dict[str, Any] = {
    "id": 54509304133531,
    "type": "Comment",
    "author_id": 1_001,
    "body": "See **attached**.",
    "html_body": '<div class="zd-comment">See <b>attached</b>.</div>',
    "plain_body": "See attached.",
    "public": True,
    "attachments": [PDF],
    "audit_id": 54509304133530,
    "via": {"channel": "email", "source": SOURCE},
    "created_at": "2026-08-17T07:34:48Z",
    "metadata": {"system": {"message_id": "<m1@customer.example>", "eml_redacted": False}},
}
USERS = [
    {"id": 1_001, "name": "Mia M.", "email": "mia@customer.example", "role": "end-user"},
    {"id": 1_002, "name": "Cara", "email": "copy@customer.example", "role": "end-user"},
    {"id": 2_001, "name": "Ada", "email": "ada@acme.example", "role": "agent"},
    {"id": 2_002, "name": "Alan", "email": "alan@acme.example", "role": "admin"},
]


def read(**changes: object) -> CommentMessage:
    """Read the e-mail with these fields changed."""
    [message] = read_page({"comments": [EMAIL | changes], "users": USERS})
    return message


def read_source(channel: object = "email", **source: object) -> CommentMessage:
    return read(via={"channel": channel, "source": source})


def read_file(**changes: object) -> ListedFile:
    [file] = read(attachments=[PDF | changes]).files
    return file


def people(*addresses: str) -> tuple[Person, ...]:
    return tuple(Person(None, address) for address in addresses)


def test_the_documented_email_is_read() -> None:
    """Every field of the documented comment has its place."""
    assert read() == CommentMessage(
        comment_id="54509304133531",
        audit_id="54509304133530",
        created_at=datetime(2026, 8, 17, 7, 34, 48, tzinfo=UTC),
        channel="email",
        is_email=True,
        is_by_agent=False,
        direction="inbound",
        public=True,
        sender=Person("Mia", "mia@customer.example"),
        to=(Person("Acme", "help@acme.example"), Person(None, "boss@customer.example")),
        cc=(Person("Cara", "copy@customer.example"), Person(None, "other@customer.example")),
        message_id="<m1@customer.example>",
        text="See attached.",
        html='<div class="zd-comment">See <b>attached</b>.</div>',
        files=(
            ListedFile(
                url=f"{HOST}/kPg/?name=invoice.pdf",
                file_name="invoice.pdf",
                content_type="application/pdf",
                size=2532,
                zendesk_id="498483",
                malware="malware_not_found",
            ),
        ),
        record=json.dumps(EMAIL).encode(),
        is_redacted=False,
    )


def test_all_comments_of_a_page_are_read_in_its_order() -> None:
    page = {"comments": [EMAIL, EMAIL | {"id": 5}, None, "text"], "users": USERS}

    assert [message.comment_id for message in read_page(page)] == ["54509304133531", "5"]


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"comments": None},
        {"comments": {"1": EMAIL}},
        {"comments": [{key: value for key, value in EMAIL.items() if key != "attachments"}]},
        {"comments": [EMAIL | {"id": None}]},
        {"comments": [EMAIL | {"id": " "}]},
        {"comments": [EMAIL | {"id": "1" * 101}]},
    ],
)
def test_an_answer_that_is_no_page_of_comments_is_tried_again(page: dict[str, object]) -> None:
    with pytest.raises(Transient) as caught:
        read_page(page)

    assert caught.value.code == "bad_response"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"via": {"channel": "email"}, "metadata": {}}, True),
        ({"via": {"channel": "Mail"}, "metadata": {}}, True),
        ({"via": {"channel": 4}, "metadata": {}}, True),
        ({"via": {"channel": "4"}, "metadata": None}, True),
        ({"via": "Mail", "metadata": None}, True),
        # A follow-up's channel is another one.
        ({"via": {"channel": "web"}, "metadata": {"system": {"message_id": "<a@b>"}}}, True),
        ({"via": {"channel": "web"}, "metadata": {"system": {"raw_email_identifier": "1/a.eml"}}}, True),
        ({"via": None, "metadata": {"system": {"email_id": "01H4"}}}, True),
        ({"via": {"channel": "web"}, "metadata": {"system": {"message_id": ""}}}, False),
        ({"via": {"channel": "web"}, "metadata": {"system": {"client": "Mozilla/5.0"}}}, False),
        # An answer by the API has people in copy, and is no e-mail.
        ({"via": {"channel": "api", "source": SOURCE}, "metadata": {"system": {}}}, False),
        ({"via": {"channel": 44}, "metadata": {}}, False),
        ({"type": "VoiceComment"}, False),
        ({"type": "TpeVoiceComment"}, False),
    ],
)
def test_an_email_is_recognised_by_its_notes_or_its_channel(
    changes: dict[str, object], *, expected: bool
) -> None:
    assert expected is read(**changes).is_email


@pytest.mark.parametrize(
    ("author_id", "direction"),
    [(1_001, "inbound"), (2_001, "outbound"), ("2002", "outbound"), (9, "inbound"), (None, "inbound")],
)
def test_a_comment_by_an_agent_is_outbound(author_id: object, direction: str) -> None:
    """An unknown author is none of the agents."""
    message = read(author_id=author_id)

    assert (direction, direction == "outbound") == (message.direction, message.is_by_agent)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"name": "M", "address": "m@x.example"}, Person("M", "m@x.example")),
        ({"address": "m@x.example"}, Person(None, "m@x.example")),
        # The author's name is the sender's if the address is the author's.
        ({"address": "MIA@customer.example"}, Person("Mia M.", "MIA@customer.example")),
        ({"name": "M"}, Person("Mia M.", "mia@customer.example")),
        ({}, Person("Mia M.", "mia@customer.example")),
        ({"ticket_id": 5, "subject": "Invoice"}, Person("Mia M.", "mia@customer.example")),
        (None, Person("Mia M.", "mia@customer.example")),
    ],
)
def test_the_sender_is_named_by_the_email_or_else_the_author(named: object, expected: Person) -> None:
    assert expected == read_source(**{"from": named}).sender


def test_an_unknown_author_leaves_the_name_that_the_email_gave() -> None:
    message = read(author_id=9, via={"channel": "email", "source": {"from": {"name": "M"}}})

    assert Person("M", None) == message.sender


def test_a_recipient_is_named_once() -> None:
    """The list of original recipients may have the sender, the people in copy and the first recipient again."""
    message = read_source(
        **{
            "from": {
                "address": "mia@customer.example",
                "original_recipients": [
                    *("Mia@Customer.example", "HELP@acme.example", "COPY@customer.example"),
                    *("b@x.example", " B@x.example ", "a@x.example", "", None, 7),
                ],
            },
            "to": {"address": "help@acme.example", "email_ccs": [1_002, "1002", "copy@customer.example"]},
        }
    )

    assert people("help@acme.example", "b@x.example", "a@x.example") == message.to
    assert (Person("Cara", "copy@customer.example"),) == message.cc


def test_a_message_to_oneself_keeps_its_recipient() -> None:
    message = read_source(**{"from": {"address": "a@x.example"}, "to": {"address": "a@x.example"}})

    assert people("a@x.example") == message.to


def test_a_deleted_user_in_copy_is_kept_by_name_or_address() -> None:
    """Of a deleted user Zendesk gives the address or the name; an id without a user tells nothing."""
    message = read_source(to={"email_ccs": ["gone@x.example", "Gone Person", 99, "98"]})

    assert (Person(None, "gone@x.example"), Person("Gone Person", None)) == message.cc


@pytest.mark.parametrize(
    "name",
    [
        "=?utf-8?q?Gr=C3=BC=C3=9Fe?=",
        "شركة \u202eabc\u202c",
        "👩‍👩‍👧 Ωmega",
        "नमस्‍ते",
        "Zoë (née „Müller“) <b>",
    ],
)
def test_a_name_is_kept_as_it_is(name: str) -> None:
    message = read_source(**{"from": {"name": name, "address": "m@x.example"}, "to": {"name": name}})

    assert (name, (Person(name, None),)) == (message.sender.name, message.to)


def test_characters_that_postgres_refuses_are_replaced() -> None:
    message = read(
        plain_body="a\0b\ud83d",
        html_body="<p>\0",
        via={"source": {"from": {"name": "\0", "address": "\udc80@x"}}},
    )

    assert (message.text, message.html) == ("a\ufffdb\ufffd", "<p>\ufffd")
    assert Person("\ufffd", "\ufffd@x") == message.sender


def test_people_are_bounded() -> None:
    """More recipients than any e-mail has, with longer names, cost a bounded row."""
    many = [f"{number}@x.example" for number in range(MOST_RECIPIENTS + 5)]
    source = {
        "from": {"original_recipients": many},
        "to": {"name": "n" * 5_000, "email_ccs": [m + "c" for m in many]},
    }

    message = read_source(**source)

    assert (len(message.to), len(message.cc)) == (MOST_RECIPIENTS, MOST_RECIPIENTS)
    assert message.to[0].name == "n" * MOST_CHARACTERS
    assert many[: MOST_RECIPIENTS - 1] == [person.address for person in message.to[1:]]


@pytest.mark.parametrize(
    ("bodies", "text", "html"),
    [
        ({"plain_body": "plain", "body": "**bold**", "html_body": "<b>"}, "plain", "<b>"),
        ({"plain_body": " \n", "body": "**bold**", "html_body": " "}, "**bold**", None),
        ({"plain_body": None, "body": "bold", "html_body": None}, "bold", None),
        ({"plain_body": 5, "body": [], "html_body": {}}, "", None),
        ({"plain_body": "a\r\n\r\n  b \n", "body": "", "html_body": ""}, "a\r\n\r\n  b \n", None),
    ],
)
def test_the_text_is_the_plain_one_or_else_the_body(
    bodies: dict[str, object], text: str, html: str | None
) -> None:
    """Comments made with `body` alone have no `plain_body`."""
    message = read(**bodies)

    assert (text, html) == (message.text, message.html)
    assert Body(text, html) == read_record(message.record)


def test_the_record_is_the_comment_as_zendesk_gave_it() -> None:
    """Unknown keys, long numbers, and characters that UTF-8 or Postgres lack survive."""
    text = '{"id": 1, "x": {"n": 12345678901234567890123, "t": "ü\\u0000\\ud83d🙂"}, "attachments": [], "plain_body": ""}'
    page = read_json(f'{{"comments": [{text}]}}')
    assert isinstance(page, dict)

    [message] = read_page(page)

    assert text.encode() == message.record


@pytest.mark.parametrize("record", [b"", b"[]", b"null", b"{", b"\xff\x00"])
def test_other_bytes_are_no_record(record: bytes) -> None:
    with pytest.raises(Unreadable):
        read_record(record)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "malware_not_found"),
        ({"malware_scan_result": "not_scanned"}, "not_scanned"),
        ({"malware_scan_result": "FAILED_TO_SCAN"}, "failed_to_scan"),
        ({"malware_scan_result": "malware_found"}, "malware_found"),
        ({"malware_scan_result": "malware_found", "malware_access_override": True}, "overridden"),
        ({"malware_scan_result": "something new"}, None),
        ({"malware_scan_result": None}, None),
    ],
)
def test_the_verdict_on_malware_is_kept(changes: dict[str, object], expected: str | None) -> None:
    assert expected == read_file(**changes).malware


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"deleted": True}, True),
        ({"deleted": True, "content_url": None}, True),
        ({"file_name": "redacted.txt", "size": 0}, True),
        ({"file_name": "redacted.txt", "size": 12}, False),
        ({"size": 0}, False),
    ],
)
def test_a_deleted_or_redacted_file_is_gone(changes: dict[str, object], *, expected: bool) -> None:
    assert expected is read_file(**changes).is_gone


def test_an_image_of_the_html_alone_is_a_file_and_a_thumbnail_is_none() -> None:
    thumbnail = {"id": 7, "content_url": f"{HOST}/thumb/?name=a_thumb.png", "file_name": "a_thumb.png"}
    picture = PDF | {"content_url": f"{HOST}/pic/?name=a.png", "inline": True, "thumbnails": [thumbnail]}
    html = (
        f'<a href="{HOST}/pic/?name=a.png"><img src="{HOST}/thumb/?name=a_thumb.png"></a>'
        f'<img src="{HOST}/only/?name=b.png&amp;x=1"><img src="https://tracker.example/pixel.gif">'
    )

    files = read(attachments=[picture], html_body=html).files

    assert [
        (f"{HOST}/pic/?name=a.png", "498483", True),
        (f"{HOST}/only/?name=b.png&x=1", None, True),
    ] == [(file.url, file.zendesk_id, file.inline) for file in files]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"body": "my number is ▇▇▇"}, True),
        ({"plain_body": "▇"}, True),
        ({"html_body": "<p>▇</p>"}, True),
        ({"metadata": {"system": {"eml_redacted": True}}}, True),
        ({"metadata": {"system": {"eml_redacted": "no"}}}, False),
    ],
)
def test_a_redacted_comment_is_marked(changes: dict[str, object], *, expected: bool) -> None:
    assert expected is read(**changes).is_redacted


def test_the_subjects_of_tickets_are_read_by_id() -> None:
    tickets = [
        {"id": 1, "subject": "Invoice", "raw_subject": "raw", "recipient": "help@acme.example"},
        {"id": "2", "subject": None, "raw_subject": "{{dc.title}}", "recipient": None},
        {"id": 3, "subject": "s" * 5_000},
        {"id": None, "subject": "none"},
        "text",
    ]

    assert read_tickets({"tickets": tickets}) == {
        "1": TicketFacts("Invoice", "help@acme.example"),
        "2": TicketFacts("{{dc.title}}", None),
        "3": TicketFacts("s" * MOST_CHARACTERS, None),
    }


@pytest.mark.parametrize("page", [{}, {"tickets": None}, {"tickets": {"1": {}}}])
def test_an_answer_that_is_no_list_of_tickets_is_tried_again(page: dict[str, object]) -> None:
    with pytest.raises(Transient) as caught:
        read_tickets(page)

    assert caught.value.code == "bad_response"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("ü" * 10, "ü" * 10),
        ("x" * TEXT_BYTES, "x" * TEXT_BYTES),
        ("x" * (TEXT_BYTES + 1), "x" * TEXT_BYTES),
        ("x" * (TEXT_BYTES - 1) + "ü", "x" * (TEXT_BYTES - 1)),
        ("x" * (TEXT_BYTES - 3) + "🙂🙂", "x" * (TEXT_BYTES - 3)),
        ("🙂" * TEXT_BYTES, "🙂" * (TEXT_BYTES // 4)),
        ("a\ud83d", "a\ufffd"),
    ],
)
def test_a_long_text_is_cut_at_a_character(text: str, expected: str) -> None:
    assert expected == cut_text(text)


_texts = st.text(st.characters()) | st.sampled_from(
    [
        *("email", "4", "1", "m@x.example", "▇", "9999-99-99", "redacted.txt"),
        *(f"{HOST}/a/?name=b.png", f'<img src="{HOST}/c/?name=d.png">'),
    ]
)
_any = json_values | _texts | st.integers(0, 3)


def _fields(keys: str, **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Generate an object with some of these keys, and at times something else."""
    known = dict.fromkeys(keys.split(), _any) | {key: value | _any for key, value in parts.items()}
    return st.fixed_dictionaries({}, optional=known) | _any


_people = st.lists(_fields("name address") | _any, max_size=4)
_party = _fields("name address", original_recipients=_people, email_ccs=_people)
_file = _fields(
    "id file_name content_url content_type size inline deleted malware_scan_result malware_access_override",
    thumbnails=st.lists(_fields("content_url"), max_size=2),
)
_bodies = dict.fromkeys(("body", "plain_body", "html_body"), _texts | _any)
_source = st.fixed_dictionaries({}, optional={"from": _party, "to": _party}) | _any
_others = {
    **dict.fromkeys(("author_id", "audit_id", "created_at", "type", "public"), _any),
    "via": _fields("channel", source=_source),
    "metadata": _fields("", system=_fields("message_id eml_redacted")),
}
# Comments as the API documents them in all that the parser requires, and with values of any kind in the rest.
_comment = st.fixed_dictionaries(
    {"id": st.integers(0, 10**20), "attachments": st.lists(_file, max_size=3)}, optional=_bodies | _others
)
_page = st.fixed_dictionaries(
    {
        "comments": st.lists(_comment, max_size=2),
        "users": st.lists(_fields("id name email role"), max_size=3) | _any,
        "tickets": st.lists(_fields("id subject raw_subject recipient"), max_size=3),
    }
)


def _assert_storable(value: object) -> None:
    """Check that Postgres can store every text in the value."""
    if isinstance(value, tuple | list):
        for part in value:
            _assert_storable(part)
    elif isinstance(value, str):
        assert b"\0" not in value.encode("utf-8")


def _refusal(reader: Callable[[dict[str, Any]], object], page: dict[str, Any]) -> str | None:
    try:
        reader(page)
    except Transient as exc:
        return exc.code
    return None


@given(_page)
@settings(deadline=None, max_examples=examples(60))
def test_every_comment_and_ticket_is_read_whatever_its_values_are(page: dict[str, Any]) -> None:
    given_comments = len(page["comments"])
    read_again = read_json(write(page))
    assert isinstance(read_again, dict)

    messages, tickets = read_page(read_again), read_tickets(read_again)

    assert given_comments == len(messages)
    for message in messages:
        _assert_storable(astuple(message))
        assert Body(message.text, message.html) == read_record(message.record)
    for ticket_id, facts in tickets.items():
        _assert_storable((ticket_id, *astuple(facts)))


@given(
    st.dictionaries(
        st.sampled_from(["comments", "tickets", "users"]), _any | st.lists(_fields("id attachments"))
    )
)
@settings(deadline=None, max_examples=examples(60))
def test_any_other_answer_is_tried_again(page: dict[str, Any]) -> None:
    assert {_refusal(read_page, page), _refusal(read_tickets, page)} <= {None, "bad_response"}


@given(st.text(st.characters(), max_size=40), st.integers(TEXT_BYTES - 60, TEXT_BYTES + 60))
@settings(deadline=None, max_examples=examples(100))
def test_a_cut_text_is_the_longest_beginning_that_fits(end: str, before: int) -> None:
    text = "x" * before + end.encode(errors="replace").decode().replace("\0", "?")

    kept = cut_text(text)

    following = text[len(kept) : len(kept) + 1]
    assert text.startswith(kept)
    assert len(kept.encode()) <= TEXT_BYTES
    assert not following or len((kept + following).encode()) > TEXT_BYTES
