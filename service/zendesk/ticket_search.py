"""Zendesk's search for the tickets of a day: the query, and the answer as values.

https://developer.zendesk.com/api-reference/ticketing/ticket-management/search/#export-search-results
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from service.errors import Transient
from service.zendesk.body import text_of
from service.zendesk.signature import read_time

SEARCH = "/api/v2/search/export.json"
# Whole tickets with their descriptions: Zendesk allows 1,000, which may be too many bytes.
PAGE_SIZE = 100
_MOST_ID = 100
_MOST_CURSOR = 4_000
_EMAIL_CHANNELS = {"email", "mail", "4"}


@dataclass(frozen=True, slots=True)
class FoundTicket:
    """A ticket that the search found; `created_at` is aware."""

    ticket_id: str
    created_at: datetime
    is_by_email: bool


def query_of(day: date, cursor: str | None = None) -> dict[str, str]:
    """Return the parameters that ask for the tickets made on a day, in UTC; from the cursor on, if there is one."""
    start = datetime.combine(day, time(), UTC)
    first, end = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (start, start + timedelta(days=1)))
    return {
        "query": f"created>={first} created<{end}",
        "filter[type]": "ticket",
        "page[size]": str(PAGE_SIZE),
        **({"page[after]": cursor} if cursor else {}),
    }


def cursor_of(page: Mapping[str, object]) -> str | None:
    """Return the cursor of the next page; None on the last one. It is valid for an hour.

    Raises Transient where there are more results and no usable cursor.
    """
    meta = page.get("meta")
    # Zendesk documents a string, and shows a boolean: both are read.
    has_more = str(meta.get("has_more")).lower() if isinstance(meta, dict) else ""
    if not isinstance(meta, dict) or has_more not in {"true", "false"}:
        raise Transient("bad_response", "The search API did not say whether there are more results.")
    if has_more == "false":
        return None
    cursor = meta.get("after_cursor")
    if not (isinstance(cursor, str) and 0 < len(cursor) <= _MOST_CURSOR and cursor.isascii()):
        raise Transient("bad_response", "The search API did not give the cursor of the next page.")
    return cursor


def read_found(page: Mapping[str, object]) -> list[FoundTicket]:
    """Return the tickets of a page; other results are left out. Raises Transient for another answer."""
    found = page.get("results")
    if not isinstance(found, list):
        raise Transient("bad_response", "The search API did not answer with results.")
    tickets = []
    for result in found:
        if not isinstance(result, dict):
            continue
        ticket_id, made = text_of(result.get("id")), read_time(text_of(result.get("created_at")) or "")
        if ticket_id and len(ticket_id) <= _MOST_ID and made:
            tickets.append(FoundTicket(ticket_id, made, _is_by_email(result.get("via"))))
    return tickets


def _is_by_email(via: object) -> bool:
    channel = text_of(via.get("channel") if isinstance(via, dict) else via)
    return (channel or "").lower() in _EMAIL_CHANNELS
