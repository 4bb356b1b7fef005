"""Compare each message with the e-mail that was sent, and each request on record with the webhooks."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from service.local.drill.ledger import Ledger, Person, SentEmail
from service.local.drill.verdict import AuditResult, Row
from service.local.zendesk.state import StandInState

# Look-ups for each comment that is a message or was ignored; one more is allowed in any drill.
_MOST_LOOKUPS = 1.02
# The part of a text that Postgres keeps.
_TEXT_BYTES = 65_536
# Where the request of a kind of webhook has to be; those of others are with their e-mails.
_PLACES = {"garbage": "quarantined", "agent": "ignored"}


def key_of(sha256: str) -> str:
    """Return the key of an object."""
    return f"sha256/{sha256[:2]}/{sha256[2:]}"


def check_messages(
    result: AuditResult,
    ledger: Ledger,
    emails: Mapping[int, Row],
    messages: Sequence[Row],
    stored: Mapping[str, int],
) -> None:
    """Compare the message of each e-mail, and its objects, with those that were sent. `emails` are by id."""
    found = {message["email_id"]: message for message in messages}
    for email_id, message in found.items():
        if email_id not in emails:
            result.broken.append(f"message {email_id} has no e-mail")
        result.lost += [
            f"message {email_id} has no object for its {name}" for name in _missing(message, stored)
        ]
    for email_id, email in emails.items():
        sent = ledger.expected(email["zendesk_ticket_id"], email["comment_id"])
        if not isinstance(sent, SentEmail):
            if email_id in found:
                result.broken.append(f"e-mail {email_id} has a message, and Zendesk has none")
            continue
        about = f"e-mail {email_id} ({sent.kind})"
        if email_id not in found:
            result.lost.append(f"{about} has no message")
            continue
        message = found[email_id]
        result.kept += 1
        result.originals[str(message["original"])] += 1
        result.wrong_bytes += [
            f"{about} has another {name} than was sent" for name in _differences(sent, message)
        ]


def _differences(sent: SentEmail, message: Row) -> Iterator[str]:
    """Name each part of a message that is not the sent one."""
    text = sent.text.encode()
    expected = {
        "comment_id": sent.comment_id,
        "direction": sent.direction,
        "public": True,
        "subject": sent.subject,
        "from_name": sent.sender[0],
        "from_address": sent.sender[1],
        "to": _people(sent.to),
        "cc": _people(sent.cc),
        "message_id": sent.message_id,
        "text": text[:_TEXT_BYTES].decode(errors="ignore"),
        "text_size": len(text),
        "record_sha256": hashlib.sha256(sent.record).hexdigest(),
        "record_size": len(sent.record),
    }
    if message["original"] == "stored":
        expected["original_sha256"] = hashlib.sha256(sent.original).hexdigest()
        expected["original_size"] = len(sent.original)
    yield from (name for name, value in expected.items() if message[name] != value)


def _people(people: Sequence[Person]) -> list[dict[str, str | None]]:
    return [{"name": name, "address": address} for name, address in people]


def _missing(message: Row, stored: Mapping[str, int]) -> Iterator[str]:
    """Name the objects of a message that are not stored; each stored one matches its key."""
    for name in ("record", "original") if message["original"] == "stored" else ("record",):
        key = message[f"{name}_key"]
        if key != key_of(message[f"{name}_sha256"] or "") or stored.get(key) != message[f"{name}_size"]:
            yield name


def check_calls(result: AuditResult, ledger: Ledger, state: StandInState) -> None:
    """Count the calls about tickets that Zendesk's API shows, and bound them where there were no faults.

    A process that is killed asks again, and so does one whose call fails.
    """
    lookups = sum(number for ticket, number in state.lookups.items() if ticket in state.comments)
    result.calls = {"look-ups": lookups, "for subjects": state.calls["tickets/show_many"]}
    comments = result.kept + result.requests.get("ignored", 0)
    if not ledger.injections and lookups > max(comments + 1, _MOST_LOOKUPS * comments):
        result.broken.append(f"{lookups} look-ups for {comments} comments, without any fault")


def check_requests(result: AuditResult, ledger: Ledger, requests: Mapping[str, Sequence[bytes]]) -> None:
    """Check that each acknowledged request is on record once, at its place; `requests` are the bodies by place."""
    on_record = {place: Counter(bodies) for place, bodies in requests.items()}
    result.requests = {place: len(bodies) for place, bodies in requests.items()}
    kinds: dict[tuple[bytes, str], Counter[str]] = {}
    for webhook in ledger.webhooks.values():
        counts = kinds.setdefault((webhook.body, _PLACES.get(webhook.kind, "e-mails")), Counter())
        counts.update(("sent", webhook.outcome))
    for (body, place), counts in kinds.items():
        found = on_record[place].pop(body, 0)
        if found < counts["ok"]:
            result.lost.append(f"{body[:200]!r} was acknowledged and is not in the {place} requests")
        elif found > counts["sent"]:
            result.doubled.append(f"{body[:200]!r} is {found} times in the {place} requests")
    for place, left in on_record.items():
        result.broken += [f"{body[:200]!r} is in the {place} requests, and was not sent so" for body in left]
