"""The stand-in's search for tickets: by the time at which they were made, in pages.

https://developer.zendesk.com/api-reference/ticketing/ticket-management/search/#export-search-results
"""

import re

from aiohttp import web

from service.local.zendesk.access import STATE, signed_in, unauthenticated

_QUERY = re.compile(r"created>=(\S+) created<(\S+)")
_MOST = 1_000


async def export(request: web.Request) -> web.Response:
    """Answer with the tickets made in a range of time, newest first; the cursor is the number of those before."""
    if not signed_in(request):
        return unauthenticated()
    state = request.app[STATE]
    query, size = _QUERY.fullmatch(request.query.get("query", "")), request.query.get("page[size]", "100")
    after = request.query.get("page[after]", "0")
    is_valid = query and size.isdecimal() and 1 <= int(size) <= _MOST and after.isdecimal()
    if not is_valid or not query or request.query.get("filter[type]") != "ticket":
        return web.json_response({"error": "invalid", "description": "Invalid search"}, status=422)
    first, end = query.groups()
    found = [ticket for ticket in state.tickets.values() if first <= str(ticket["created_at"]) < end]
    found.sort(key=lambda ticket: str(ticket["created_at"]), reverse=True)
    place = int(after) + int(size)
    following = request.url.update_query({"page[after]": str(place)}) if place < len(found) else None
    return web.json_response(
        {
            "results": [{**ticket, "result_type": "ticket"} for ticket in found[int(after) : place]],
            "meta": {"has_more": following is not None, "after_cursor": str(place) if following else None},
            "links": {"prev": None, "next": str(following) if following else None},
        }
    )
