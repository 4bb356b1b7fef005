"""Payloads of webhooks, and short ways to write and to parse them."""

import json
from dataclasses import astuple, replace
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from service.zendesk.payloads import Email, parse

FILE = {
    "content_type": "image/jpeg",
    "content_url": "https://acme.zendesk.com/attachments/token/S7m/?name=logo.jpeg",
    "filename": "logo.jpeg",
    "id": "8658726230270",
    "is_public": False,
}
EVENT: dict[str, Any] = {
    "account_id": 22129848,
    "detail": {
        "actor_id": "8447388090495",
        "created_at": "2025-01-14T19:31:42Z",
        "id": "19395",
        "priority": None,
        "status": "NEW",
        "subject": "Logo",
        "tags": None,
        "via": {"channel": "mail"},
    },
    "event": {
        "comment": {"attachment": FILE, "id": "8658726228478"},
        "meta": {"sequence": {"id": 12345678901234567890123456, "position": 2}},
    },
    "id": "030a3f7a-9bb9-47a4-9a36-6aa8f1d66783",
    "subject": "zen:ticket:19395",
    "time": "2025-01-14T19:31:42.692223355Z",
    "type": "zen:event-type:ticket.attachment_linked_to_comment",
    "zendesk_event_version": "2022-11-06",
}
ADDED = EVENT | {
    "type": "zen:event-type:ticket.comment_added",
    "event": {
        "comment": {
            "author": {"id": "8447388090495", "is_staff": False, "name": "Mia"},
            "body": "See attached.",
            "id": "8658726228479",
            "is_public": True,
        }
    },
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)


def write(payload: object) -> bytes:
    return (
        json.dumps(payload).replace("Infinity", "1e400").encode()
    )  # a number that overflows, as JSON has it


def read(payload: object) -> Email:
    email = parse(write(payload))
    assert isinstance(email, Email)
    return email


A = "https://acme.zendesk.com/attachments/token/kPgFVVxSa6/?name=a.pdf"
B = "https://acme.zendesk.com/attachments/token/8xQ-b_Zo1/?name=b%20c.pdf"
CDN = "https://p19.zdusercontent.com/attachment/840/xYz?token=eyJhbGciOi.J9=="
RECORD = "https://acme.zendesk.com/api/v2/attachments/498483.json"
LISTED_PDF = {"url": A, "filename": "a.pdf"}
JOINTS = [
    *(
        ",",
        ", ",
        ";",
        "; ",
        "|",
        " | ",
        " ",
        "\n",
        "\r\n",
        "\t",
        "",
        "<br>",
        "<br/>",
        " <br />\n",
        "&nbsp;",
        "&#10;",
    ),
    *(
        '"',
        "','",
        '","',
        "&",
        "#",
        "><",
        ")(",
        "](",
        "} {",
        " und ",
        " • ",
        "·",
        "\\n",
        "\\",
        "\u200b",
        "。",
        ".",
        ":",
    ),
]


def urls(**said: object) -> list[str]:
    """Return the addresses of the files that are found; check that the parser knows them all."""
    email = read({"ticket_id": "1", **said})
    assert email.attachment_urls is not None
    return [file.url for file in email.attachments]


def is_looked_up(**said: object) -> bool:
    return read({"ticket_id": "1", **said}).attachment_urls is None


URL = "https://acme.zendesk.com/attachments/token/kPgFVVxSa6/?name=invoice.pdf"
OTHER_URL = "https://acme.zendesk.com/attachments/token/xYz/?name=letter.pdf"
CODES = {"not_json", "wrong_shape", "no_ticket", "duplicate_key"}
TRIGGER = {
    "ticket_id": "35436",
    "subject": "Invoice",
    "from_email": "mia@example.com",
    "from_name": "Mia",
    "body_text": "See attached.",
    "body_html": "<p>See attached.</p>",
    "received_at": "2026-04-28T12:00:00Z",
    "webhook_id": "35436-8658726228478",
    "attachments": [
        {"url": URL, "filename": "invoice.pdf", "content_type": "application/pdf", "size": "1024"}
    ],
    "tags": "vip eu",
    "is_public": "true",
}
known_keys = st.sampled_from(
    [
        *TRIGGER,
        "id",
        "ticketId",
        "title",
        "ticket",
        "detail",
        "event",
        "account_id",
        "comment_id",
        "time",
        "comment",
    ]
)
event_types = st.sampled_from(
    [EVENT["type"], ADDED["type"], "zen:event-type:ticket.created", "zen:event-type:x", "x"]
)
payloads = st.builds(
    lambda fields, kind, inner: fields | ({"type": kind, "event": {"comment": inner}} if kind else {}),
    st.dictionaries(known_keys | st.text(st.characters()), json_values, max_size=8),
    st.none() | event_types,
    st.fixed_dictionaries({}, optional={"attachment": json_values, "id": json_values, "author": json_values}),
)


def assert_storable(email: Email) -> None:
    """Check that Postgres can store the texts, and that the list can be written as JSON."""
    json.dumps(email.attachment_urls, allow_nan=False)
    texts = [*astuple(replace(email, attachments=(), attachment_urls=[]))]
    texts += [field for attachment in email.attachments for field in astuple(attachment)]
    for text in texts:
        if isinstance(text, str):
            assert b"\0" not in text.encode("utf-8")
    assert email.sent_at is None or email.sent_at.utcoffset() == timedelta(0)
