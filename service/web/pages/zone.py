"""The page on which a reader chooses the zone of all times: a cookie of this browser alone."""

import asyncio

from aiohttp import web

from service.errors import Rejected
from service.web.handling import zones
from service.web.handling.middleware import is_encrypted
from service.web.handling.prefix import prefix_of
from service.web.handling.routes import Routes
from service.web.pages.frame import redirect, show

routes = Routes()

YEAR = 365 * 24 * 3600


@routes.get("/zone")
async def choose_zone(request: web.Request) -> web.Response:
    """Show the zones, or keep the chosen one; readers may choose, too, so this is no POST."""
    chosen = request.query.get("zone")
    if chosen is None:
        return await show(request, "zone.html", chosen=request.cookies.get(zones.CHOSEN, ""))
    response = redirect("/zone", "zone_chosen")
    path, secure = prefix_of(request) or "/", is_encrypted(request)
    if not chosen:
        response.del_cookie(zones.CHOSEN, path=path, samesite="Lax", secure=secure)
        return response
    if chosen not in await asyncio.to_thread(zones.zones):
        raise Rejected(400, "bad_parameter", "zone: is none of the list")
    # The script reads it, for the times that it writes.
    response.set_cookie(zones.CHOSEN, chosen, max_age=YEAR, path=path, samesite="Lax", secure=secure)
    return response
