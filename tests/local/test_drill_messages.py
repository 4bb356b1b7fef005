"""The audit of a drill compares each message and each request with what was sent, and finds each single change."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import pytest

from service.local.drill.emails import KINDS, SEVERAL, EmailMaker
from service.local.drill.ledger import Injection, Ledger, SentEmail, Webhook
from service.local.drill.message_audit import check_calls, check_messages, check_requests, key_of
from service.local.drill.traffic import Traffic
from service.local.drill.verdict import AuditResult, verdict
from service.local.zendesk.stand_in import Zendesk
from service.zendesk.messages import CommentMessage, read_page

HEADINGS = ("lost", "doubled", "wrong_bytes", "broken")
LONG = "Grüße " * 12_000  # the part in Postgres would end within a character
SENT = SentEmail(
    ticket_id="101",
    comment_id="9001",
    kind="whole",
    record='{"id": 9001, "body": "Grüße"}'.encode(),
    direction="inbound",
    subject="Rechnung",
    sender=("Käthe", "kaethe@customer.example"),
    to=[("Support", "support@acme.example")],
    cc=[(None, "office@customer.example")],
    message_id="<1@customer.example>",
    text=LONG,
    original=b"From: kaethe@customer.example\r\n\r\nhello",
)


@dataclass
class World:
    """An e-mail with its message, and one without, as they have to be until a test tampers with them."""

    ledger: Ledger
    emails: dict[int, dict[str, Any]]
    messages: list[dict[str, Any]]
    stored: dict[str, int]
    requests: dict[str, list[bytes]]

    def audit(self) -> AuditResult:
        result = AuditResult()
        check_messages(result, self.ledger, self.emails, self.messages, self.stored)
        check_requests(result, self.ledger, self.requests)
        return result


def _message() -> dict[str, Any]:
    record, original = sha256(SENT.record).hexdigest(), sha256(SENT.original).hexdigest()
    return {
        "email_id": 1,
        "comment_id": "9001",
        "direction": "inbound",
        "public": True,
        "subject": "Rechnung",
        "from_name": "Käthe",
        "from_address": "kaethe@customer.example",
        "to": [{"name": "Support", "address": "support@acme.example"}],
        "cc": [{"name": None, "address": "office@customer.example"}],
        "message_id": "<1@customer.example>",
        "text": LONG.encode()[:65_536].decode(errors="ignore"),
        "text_size": len(LONG.encode()),
        "record_sha256": record,
        "record_key": key_of(record),
        "record_size": len(SENT.record),
        "original": "stored",
        "original_sha256": original,
        "original_key": key_of(original),
        "original_size": len(SENT.original),
    }


@pytest.fixture
def world() -> World:
    ledger = Ledger()
    further = [Webhook("101", "whole", body, outcome="ok", email=SENT) for body in (b"first", b"further")]
    ledger.add([SENT], further)
    ledger.add([], [Webhook("102", "letter", b"letter", outcome="ok")])
    ledger.add([], [Webhook("103", "agent", b"agent", outcome="ok")])
    ledger.add([], [Webhook("104", "garbage", b"garbage", outcome="ok")])
    ledger.add([], [Webhook("105", "letter", b"given up", outcome="unknown")])
    message = _message()
    return World(
        ledger,
        {
            1: {"id": 1, "zendesk_ticket_id": "101", "comment_id": "9001"},
            2: {"id": 2, "zendesk_ticket_id": "102", "comment_id": None},
        },
        [message],
        {message["record_key"]: message["record_size"], message["original_key"]: message["original_size"]},
        {"e-mails": [b"first", b"further", b"letter"], "quarantined": [b"garbage"], "ignored": [b"agent"]},
    )


def _headings(result: AuditResult) -> dict[str, list[str]]:
    return {heading: lines for heading in HEADINGS if (lines := getattr(result, heading))}


def _change(**columns: object) -> Callable[[World], object]:
    return lambda world: world.messages[0].update(columns)


def _forget_object(name: str) -> Callable[[World], object]:
    return lambda world: world.stored.pop(world.messages[0][f"{name}_key"])


def test_messages_and_requests_as_they_were_sent_are_no_problems(world: World) -> None:
    result = world.audit()

    assert _headings(result) == {}
    assert (result.kept, result.originals) == (1, {"stored": 1})
    assert result.requests == {"e-mails": 3, "quarantined": 1, "ignored": 1}


def test_an_original_that_zendesk_does_not_give_is_no_problem(world: World) -> None:
    none = {"original": "not_available", "original_sha256": None, "original_key": None, "original_size": None}
    world.messages[0].update(none)

    assert _headings(world.audit()) == {}


# The change, the heading, and the line.
TAMPERINGS: Mapping[str, tuple[Callable[[World], object], str, str]] = {
    "a message deleted": (lambda world: world.messages.clear(), "lost", "e-mail 1 (whole) has no message"),
    "a message without an e-mail": (
        lambda world: world.messages.append({**_message(), "email_id": 7}),
        "broken",
        "message 7 has no e-mail",
    ),
    "a message that Zendesk has not": (
        lambda world: world.messages.append({**_message(), "email_id": 2}),
        "broken",
        "e-mail 2 has a message, and Zendesk has none",
    ),
    **{
        f"another {name}": (
            _change(**{name: value}),
            "wrong_bytes",
            f"e-mail 1 (whole) has another {name} than was sent",
        )
        for name, value in {
            "direction": "outbound",
            "public": False,
            "subject": "Rechnunq",
            "from_name": None,
            "from_address": "mara@customer.example",
            "to": [],
            "cc": [{"name": None, "address": "0ffice@customer.example"}],
            "message_id": "<2@customer.example>",
            "text": LONG.encode()[:65_535].decode(errors="ignore")[:-1],
            "text_size": len(LONG),
            "record_size": len(SENT.record) - 1,
            "original_size": 0,
        }.items()
    },
    "the record of another comment": (
        lambda world: world.ledger.add([replace(SENT, record=SENT.record + b" ")], []),
        "wrong_bytes",
        "e-mail 1 (whole) has another record_sha256 than was sent",
    ),
    "the original of another e-mail": (
        lambda world: world.ledger.add([replace(SENT, original=SENT.original[:-1] + b"0")], []),
        "wrong_bytes",
        "e-mail 1 (whole) has another original_sha256 than was sent",
    ),
    "a record missing": (_forget_object("record"), "lost", "message 1 has no object for its record"),
    "an original missing": (
        _forget_object("original"),
        "lost",
        "message 1 has no object for its original",
    ),
    "a request missing": (
        lambda world: world.requests["e-mails"].remove(b"further"),
        "lost",
        "b'further' was acknowledged and is not in the e-mails requests",
    ),
    "a request twice": (
        lambda world: world.requests["e-mails"].append(b"further"),
        "doubled",
        "b'further' is 2 times in the e-mails requests",
    ),
    "a request that was never sent": (
        lambda world: world.requests["ignored"].append(b"other"),
        "broken",
        "b'other' is in the ignored requests, and was not sent so",
    ),
    "an agent's comment gone": (
        lambda world: world.requests["ignored"].clear(),
        "lost",
        "b'agent' was acknowledged and is not in the ignored requests",
    ),
}


@pytest.mark.parametrize(("tamper", "heading", "line"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_each_change_is_found(
    tamper: Callable[[World], object], heading: str, line: str, world: World
) -> None:
    tamper(world)

    found = _headings(world.audit())
    assert heading in found
    assert line in found[heading]


@pytest.mark.parametrize(
    ("lookups", "injections", "broken"),
    [
        (51, [], []),
        (52, [], ["52 look-ups for 50 comments, without any fault"]),
        (52, [Injection("web.kill", 0)], []),
    ],
)
async def test_more_look_ups_than_comments_are_a_problem_without_faults(
    lookups: int, injections: list[Injection], broken: list[str], zendesk: Zendesk
) -> None:
    zendesk.add_email("101")
    zendesk.state.lookups.update({"101": lookups, "102": 99})  # the second is not at Zendesk
    zendesk.state.calls["tickets/show_many"] = 1
    result = AuditResult(kept=48, requests={"e-mails": 60, "ignored": 2})
    ledger = Ledger(injections=injections)
    check_calls(result, ledger, zendesk.state)

    assert result.broken == broken
    line = f"calls to Zendesk  {(lookups + 1) / 48:.2f} per message: {lookups} look-ups, 1 for subjects"
    assert line in verdict("60 s", ledger, result, 1.5, 1000).text.plain


def _read(zendesk: Zendesk, ticket: str) -> dict[str, CommentMessage]:
    page = {"comments": zendesk.state.comments[ticket], "users": [*zendesk.state.users.values()]}
    return {comment.comment_id: comment for comment in read_page(page)}


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_is_at_zendesk_as_the_ledger_says(kind: str, zendesk: Zendesk) -> None:
    chance = Traffic(zendesk, [], Ledger(), 7)._chance(kind)
    emails, webhooks = EmailMaker(zendesk, kind, "101", chance).make(SEVERAL.get(kind, 1))
    comments = _read(zendesk, "101")

    assert len(webhooks) == SEVERAL.get(kind, 1)
    assert len({webhook.body for webhook in webhooks}) == len(webhooks)
    assert {email.comment_id for email in emails} == {key for key, each in comments.items() if each.is_email}
    for email in emails:
        comment = comments[email.comment_id]
        assert (email.record, email.text, email.direction) == (
            comment.record,
            comment.text,
            comment.direction,
        )
        assert email.sender == (comment.sender.name, comment.sender.address)
        assert [*email.cc] == [(person.name, person.address) for person in comment.cc]
        assert len(email.files) + email.withheld == len(comment.files)
        is_withheld = [file.is_gone or file.malware == "malware_found" for file in comment.files]
        assert sum(is_withheld) == email.withheld == (1 if email.code else 0)


async def test_both_webhooks_of_a_pair_name_the_second_e_mail_or_none(zendesk: Zendesk) -> None:
    traffic, named = Traffic(zendesk, [], Ledger(), 7), set()
    for number in range(20):
        ticket = str(100 + number)
        emails, webhooks = EmailMaker(zendesk, "pair", ticket, traffic._chance(ticket)).make(2)
        comments = [json.loads(webhook.body)["comment_id"] for webhook in webhooks]
        named.add(tuple("second" if comment == emails[1].comment_id else comment for comment in comments))

    assert named == {("second", "second"), ("second", "")}
