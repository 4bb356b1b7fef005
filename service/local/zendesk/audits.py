"""What the stand-in lists of itself: audits of its tickets, deleted tickets, and suspended e-mails."""

import itertools
import time
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from typing import Any

Json = dict[str, object]


@dataclass(frozen=True, order=True)
class Audit:
    """A change of a ticket; `comment` is the comment that it added, `children` are its other events."""

    timestamp: int
    id: int
    ticket_id: str = field(compare=False)
    comment: Json | None = field(default=None, compare=False)
    children: tuple[Json, ...] = field(default=(), compare=False)


@dataclass
class Listings:
    """Audits, deleted tickets and suspended e-mails of a stand-in, and how its exports behave; tests change it."""

    audits: list[Audit] = field(default_factory=list)  # in the order of their times
    deleted: dict[str, tuple[Json, Json, list[Json]]] = field(
        default_factory=dict
    )  # record, ticket, comments
    suspended: dict[int, Json] = field(default_factory=dict)  # by id
    hidden_seconds: int = 60  # the export leaves out younger audits, and refuses a younger start
    closed: int | None = None  # the status with which the export refuses all
    most_per_page: int = 1_000
    times_out_above: int | None = None  # larger pages of the export answer 504
    has_end_time: bool = True  # otherwise `end_time` of an empty page is null
    shows_comments: bool = True  # otherwise the side-load `comment_events` is missing
    names_messages: bool = True  # an audit's `system` names the e-mail
    dead_cursors: int = 0  # so many next cursors of lists are no longer valid
    offset_pages: bool = False  # suspended e-mails come in pages by number
    exports_per_minute: int | None = 10
    _minute: tuple[float, int] = (0, 0)

    def add(self, audit: Audit) -> None:
        insort(self.audits, audit)

    def since(self, start: int, until: float) -> Iterator[Audit]:
        """Yield the audits from a second on, up to a time."""
        first = bisect_left(self.audits, Audit(start, -1, ""))
        return itertools.takewhile(
            lambda audit: audit.timestamp <= until, itertools.islice(self.audits, first, None)
        )

    def take_export(self, minute_seconds: float) -> int | None:
        """Count a call of an export; return the seconds to wait if it is one too many."""
        if self.exports_per_minute is None:
            return None
        now, (end, used) = time.monotonic(), self._minute
        if now >= end:
            end, used = now + minute_seconds, 0
        self._minute = end, used + 1
        return ceil(end - now) if used >= self.exports_per_minute else None

    def end_minute(self) -> None:
        """Begin a new minute of the exports' rate limit."""
        self._minute = (0, 0)


def seconds_of(created_at: object) -> int:
    return int(datetime.fromisoformat(str(created_at)).timestamp())


def comment_change(kind: str, comment_id: int, **more: object) -> Json:
    """Return a child event about a comment, such as its redaction."""
    return {"event_type": kind, "type": kind, "comment_id": comment_id, "via": "Web form", **more}


def status_change(status: str, previous: str) -> Json:
    return {"event_type": "Change", "status": status, "previous_value": previous, "via": "Web form"}


def shown_audit(listings: Listings, audit: Audit, *, with_comments: bool) -> Json:
    """Return an audit as the export shows it: with display texts for channels."""
    comment = audit.comment
    children = [{"id": audit.id * 10 + place, **child} for place, child in enumerate(audit.children)]
    via, system = "Web form", {"client": "Mozilla/5.0", "location": "Hamburg, HH, Germany"}
    if comment is not None:
        via = _display(comment["via"])
        children.append(_shown_comment(comment, via, with_comments=with_comments and listings.shows_comments))
        if listings.names_messages:
            system = _system(comment)
    return {
        "id": audit.id,
        "ticket_id": int(audit.ticket_id) if audit.ticket_id.isdecimal() else audit.ticket_id,
        "timestamp": audit.timestamp,
        "created_at": f"{datetime.fromtimestamp(audit.timestamp, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "updater_id": comment["author_id"] if comment else None,
        "via": via,
        "system": system,
        "metadata": {},
        "event_type": "Audit",
        "child_events": children,
    }


def _shown_comment(comment: Json, via: str, *, with_comments: bool) -> Json:
    if not with_comments:
        return {
            "id": comment["id"],
            "via": via,
            "via_reference_id": None,
            "comment_present": True,
            "comment_public": comment["public"],
            "event_type": "Comment",
        }
    listed = comment["attachments"]
    files = [one for one in listed if not one["inline"]] if isinstance(listed, list) else []
    names = (
        "id",
        "type",
        "author_id",
        "body",
        "html_body",
        "plain_body",
        "public",
        "audit_id",
        "via",
        "created_at",
    )
    shown = {name: comment[name] for name in names}
    return {**shown, "attachments": files, "via_reference_id": None, "event_type": "Comment"}


def _display(via: object) -> str:
    match via:
        case {"source": {"rel": "follow_up"}}:
            return "Closed ticket"
        case {"channel": "email" | "mail" | 4}:
            return "Mail"
        case {"channel": "api"}:
            return "Web service"
    return "Web form"


def _system(comment: Mapping[str, Any]) -> dict[str, str]:
    system: dict[str, str] = comment["metadata"]["system"]
    return system
