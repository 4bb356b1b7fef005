"""The place of the mistake in a body that is no e-mail, and a guess at its ticket and subject."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass

from service.zendesk.body import Unreadable, clean, decoded, read_json
from service.zendesk.duplicates import second_place

AROUND = 300  # characters on each side of a mistake
SEARCHED = 16 * 1024  # bytes in which ticket and subject are looked for
MOST_SUBJECT = 300

# Each repetition is bounded: a hostile body makes none of them slow.
_GAP = r"[ \t\r\n]{0,20}"
_TICKETS = (
    re.compile(rf'"ticket[_ -]?id"{_GAP}:{_GAP}"?{_GAP}([0-9]{{1,20}})', re.ASCII | re.IGNORECASE),
    re.compile(r"zen:ticket:([0-9]{1,20})", re.ASCII),
    re.compile(r"(?:^|&)ticket_?id=([0-9]{1,20})", re.ASCII | re.IGNORECASE),
    re.compile(rf'"id"{_GAP}:{_GAP}"?([0-9]{{1,20}})(?![0-9a-z-])', re.ASCII | re.IGNORECASE),
)
# A longer one is cut, so that the first place matches: a body may have more than a thousand such places.
_SUBJECT = re.compile(
    rf'"(?:subject|title)"{_GAP}:{_GAP}"(?:([^\r\n]{{0,{MOST_SUBJECT}}}?)'
    rf'(?:"{_GAP}(?:,{_GAP}"[\w .-]{{1,60}}"{_GAP}:|\}}|$)|[\r\n]|$)|([^\r\n]{{{MOST_SUBJECT}}}))',
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Mistake:
    """The place where a body stops being JSON, or repeats a key, counted from 1, and the text around it."""

    line: int
    column: int
    reason: str
    before: str
    at: str
    after: str


@dataclass(frozen=True, slots=True)
class Guess:
    """What a body that cannot be read seems to be about."""

    ticket: str | None
    subject: str | None


def mistake_in(body: bytes) -> Mistake | None:
    """Return the place of the first mistake in a body that cannot be read; None if it can, or has no such place."""
    error = None
    try:
        read_json(body)
    except Unreadable as exc:
        error = _placed(exc, body)
    if error is None:
        return None
    text, at = error.doc, error.pos
    return Mistake(
        line=error.lineno,
        column=error.colno,
        reason=error.msg,
        before=clean(text[max(0, at - AROUND) : at]),
        at=clean(text[at : at + 1]),
        after=clean(text[at + 1 : at + 1 + AROUND]),
    )


def _placed(error: Unreadable, body: bytes) -> json.JSONDecodeError | None:
    if isinstance(error.__cause__, json.JSONDecodeError):
        return error.__cause__
    if error.key is None:
        return None
    text = decoded(body)
    at = second_place(text, error.key)
    return None if at is None else json.JSONDecodeError(error.message.rstrip("."), text, at)


def guess_of(body: bytes) -> Guess:
    """Guess ticket and subject from the beginning of a body, whatever is wrong with it."""
    text = decoded(body[:SEARCHED])
    ticket = next((found[1] for pattern in _TICKETS if (found := pattern.search(text))), None)
    found = _SUBJECT.search(text)
    return Guess(ticket, (_unescaped(found[1] or found[2] or "") or None) if found else None)


def _unescaped(text: str) -> str:
    """Return a text without JSON's escapes, or as it is if these are broken."""
    with suppress(ValueError):
        text = json.loads(f'"{text}"', strict=False)
    return clean(text).strip()
