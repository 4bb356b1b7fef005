"""Payloads of webhooks, written and read."""

import json
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
