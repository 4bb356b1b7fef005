"""The stand-in's lists: the export of ticket events, changed and deleted tickets, suspended e-mails.

https://developer.zendesk.com/api-reference/ticketing/ticket-management/incremental_exports/
https://developer.zendesk.com/api-reference/ticketing/tickets/suspended_tickets/
"""

import base64
import binascii
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from service.local.zendesk.access import STATE, signed_in, unauthenticated
from service.local.zendesk.audits import shown_audit
from service.local.zendesk.state import StandInState

_MOST = 100

Json = dict[str, object]
Handler = Callable[[web.Request], Awaitable[web.Response]]


async def _events(request: web.Request) -> web.Response:
    """Answer with the audits from a second on: those of the last minute are hidden, and pages overlap."""
    if not signed_in(request):
        return unauthenticated()
    state = request.app[STATE]
    listings = state.listings
    if listings.closed is not None:
        return _refuse(listings.closed, "Forbidden", "This endpoint is closed for your credentials")
    if (wait := listings.take_export(state.minute_seconds)) is not None:
        limit = f"total={listings.exports_per_minute}; remaining=0; resets={wait}"
        headers = {"Retry-After": f"{wait}", "zendesk-ratelimit-incremental-exports": limit}
        return web.Response(status=429, headers=headers, text="Too many requests")
    return _events_since(request, state)


def _events_since(request: web.Request, state: StandInState) -> web.Response:
    listings = state.listings
    start, per_page = request.query.get("start_time", ""), request.query.get("per_page", "1000")
    if not (start.isdecimal() and per_page.isdecimal() and 1 <= int(per_page) <= 1_000):
        return _refuse(400, "StartTimeMissing", "start_time and per_page must be numbers")
    until = time.time() - listings.hidden_seconds
    if int(start) > until:
        return _refuse(
            422, "StartTimeTooRecent", "Too recent start_time. Use a start_time older than 1 minute"
        )
    if listings.times_out_above is not None and int(per_page) > listings.times_out_above:
        return web.Response(status=504, text="upstream request timeout")
    return _page_of_events(request, state, int(start), until, min(int(per_page), listings.most_per_page))


def _page_of_events(
    request: web.Request, state: StandInState, start: int, until: float, most: int
) -> web.Response:
    found = list(itertools.islice(state.listings.since(start, until), most + 1))
    page, is_end = found[:most], len(found) <= most
    with_comments = "comment_events" in request.query.get("include", "").split(",")
    end = page[-1].timestamp if page else (start if state.listings.has_end_time else None)
    following = request.rel_url.update_query({"start_time": f"{end or start}"})
    shown = [shown_audit(state.listings, audit, with_comments=with_comments) for audit in page]
    return web.json_response(
        {
            "ticket_events": shown,
            "next_page": f"{state.account_url}{following}",
            "count": len(page),
            "end_of_stream": is_end,
            "end_time": end,
        }
    )


async def _tickets(request: web.Request) -> web.Response:
    """Answer with tickets, by their last change or else by id."""
    if not signed_in(request):
        return unauthenticated()
    state = request.app[STATE]
    sort = request.query.get("sort", "id")
    if sort not in {"id", "-id", "updated_at", "-updated_at"}:
        return _bad_page("sort is not valid")
    name = sort.lstrip("-")

    def key(ticket: Json) -> tuple[str, int]:
        return str(ticket["updated_at"]) if name == "updated_at" else "", int(str(ticket["id"]))

    ordered = sorted(state.tickets.values(), key=key, reverse=sort.startswith("-"))
    return _page(request, "tickets", ordered, key, sort)


async def _deleted(request: web.Request) -> web.Response:
    """Answer with deleted tickets, the latest first."""
    if not signed_in(request):
        return unauthenticated()
    records = [record for record, _, _ in request.app[STATE].listings.deleted.values()]

    def key(record: Json) -> tuple[str, int]:
        return str(record["deleted_at"]), int(str(record["id"]))

    return _page(request, "deleted_tickets", sorted(records, key=key, reverse=True), key, "-deleted_at")


async def _suspended(request: web.Request) -> web.Response:
    """Answer with suspended e-mails, by cursor or by page number."""
    if not signed_in(request):
        return unauthenticated()
    listings = request.app[STATE].listings
    items = [listings.suspended[number] for number in sorted(listings.suspended, reverse=True)]
    if not listings.offset_pages:
        return _page(request, "suspended_tickets", items, lambda item: ("", int(str(item["id"]))), "-id")
    number = int(request.query.get("page", "1"))
    page = items[_MOST * (number - 1) : _MOST * number]
    following = request.rel_url.update_query({"page": f"{number + 1}"})
    more = f"{request.app[STATE].account_url}{following}" if _MOST * number < len(items) else None
    return web.json_response({"suspended_tickets": page, "next_page": more, "count": len(items)})


def _page(
    request: web.Request,
    name: str,
    ordered: Sequence[Json],
    key: Callable[[Json], tuple[str, int]],
    sort: str,
) -> web.Response:
    """Answer with the page after a cursor, which names the last item of the page before."""
    state = request.app[STATE]
    size, after = request.query.get("page[size]", f"{_MOST}"), request.query.get("page[after]")
    if not (size.isdecimal() and 1 <= int(size) <= _MOST):
        return _bad_page("page[size] must be 1 to 100")
    if after:
        if state.listings.dead_cursors:
            state.listings.dead_cursors -= 1
            return _bad_page("page[after] is not valid")
        if (last := _last(after, sort)) is None:
            return _bad_page("page[after] is not valid")
        is_down = sort.startswith("-")
        ordered = [each for each in ordered if (key(each) < last if is_down else key(each) > last)]
    page, has_more = ordered[: int(size)], len(ordered) > int(size)
    cursor = _cursor(sort, *key(page[-1])) if has_more else None
    following = request.rel_url.update_query({"page[size]": size, "page[after]": cursor or ""})
    return web.json_response(
        {
            name: page,
            "meta": {"has_more": has_more, "after_cursor": cursor, "before_cursor": None},
            "links": {"prev": None, "next": f"{state.account_url}{following}" if has_more else None},
        }
    )


def _cursor(sort: str, text: str, number: int) -> str:
    return base64.urlsafe_b64encode(f"{sort}|{text}|{number}".encode()).decode()


def _last(cursor: str, sort: str) -> tuple[str, int] | None:
    """Return the key that a cursor names; None for one that is invalid or of another order."""
    try:
        made_for, text, number = base64.urlsafe_b64decode(cursor).decode().split("|")
        return (text, int(number)) if made_for == sort else None
    except (binascii.Error, ValueError):
        return None


def _refuse(status: int, error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "description": description}, status=status)


def _bad_page(detail: str) -> web.Response:
    error = {"code": "InvalidPaginationParameter", "title": "Invalid pagination parameter", "detail": detail}
    return web.json_response({"errors": [error]}, status=400)


ENDPOINTS: dict[str, tuple[str, Handler]] = {
    "ticket_events": ("incremental/ticket_events", _events),
    "tickets": ("tickets", _tickets),
    "deleted_tickets": ("deleted_tickets", _deleted),
    "suspended_tickets": ("suspended_tickets", _suspended),
}
