"""Invocations of a webhook as the API lists them: how they ended, and which body was sent.

https://developer.zendesk.com/api-reference/webhooks/webhooks-api/webhooks/#list-webhook-invocations
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from service.formatting import one_line
from service.zendesk.body import Unreadable, read_json, text_of
from service.zendesk.signature import read_time

_MOST = 1000  # of a page
_MOST_BODY = 256 * 1024  # of a webhook
# Of invocations that may still be delivered. The others: failed, timeout, circuit broken, throttled, client error, server error.
_OPEN = frozenset({"accepted", "unknown"})
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_NUMBER = re.compile(r"[0-9]{1,30}")


@dataclass(frozen=True, slots=True)
class ListedInvocation:
    """One invocation in Zendesk's list."""

    id: str
    status: str
    completed_at: datetime

    @property
    def is_delivered(self) -> bool:
        return self.status == "success"

    @property
    def has_failed(self) -> bool:
        return self.status not in {"success", *_OPEN}

    @property
    def is_broken(self) -> bool:
        """Whether Zendesk's circuit breaker dropped it."""
        return "circuit" in self.status


def read_invocations(page: object) -> Sequence[ListedInvocation]:
    """Return the invocations of a page that have ended, newest first; other values are skipped."""
    listed = page.get("invocations") if isinstance(page, dict) else None
    found = []
    for one in listed[:_MOST] if isinstance(listed, list) else ():
        match one:
            case {"id": str(number), "status": str(status), "latest_completed_at": str(text)} if (
                _ID.fullmatch(number)
            ):
                if (completed_at := read_time(text[:40])) is not None:
                    found.append(ListedInvocation(number, status[:50].strip().lower(), completed_at))
    return sorted(found, key=lambda each: (each.completed_at, each.id), reverse=True)


def read_sent_body(answer: object) -> str | None:
    """Return the body of the newest attempt of an invocation; None if the answer has none."""
    listed = answer.get("attempts") if isinstance(answer, dict) else None
    bodies = []
    for one in listed[:_MOST] if isinstance(listed, list) else ():
        match one:
            case {"request": {"payload": str(body)}} if len(body) <= _MOST_BODY:
                bodies.append((text_of(one.get("completed_at")) or "", body))
    return max(bodies)[1] if bodies else None


def names_comment(body: str) -> bool:
    """Say whether the placeholder of the comment was replaced by a number."""
    number = text_of(_comment_of(body))
    return number is not None and _NUMBER.fullmatch(number) is not None


def shown_comment(body: str) -> str:
    """Show the text in the place of the comment's number, and nothing else of the body."""
    return one_line(json.dumps(_comment_of(body), ensure_ascii=False), 80)


def _comment_of(body: str) -> object:
    try:
        data = read_json(body)
    except Unreadable:
        return None
    return data.get("comment_id") if isinstance(data, dict) else None
