"""The API of what happens now: the newest webhooks, and e-mails that change."""

from collections.abc import Sequence

from aiohttp import web
from pydantic import Field

from service.postgres.selection import Selection
from service.queries import arrivals, changes
from service.queries.arrivals import ArrivalPage
from service.queries.changes import MAX_SEEN, ChangePage
from service.web.handling.keys import RES
from service.web.handling.requests import Body, EmailId, body, reply
from service.web.handling.routes import Routes

routes = Routes("Changes")


class ChangesRequest(Body):
    """Which e-mails to follow."""

    filter: Selection = Field(default_factory=Selection)
    watched: Sequence[EmailId] = Field(
        (), max_length=MAX_SEEN, description="Ids of e-mails to show in any case, until they have ended"
    )


@routes.get("/api/v1/arrivals", answer=ArrivalPage)
async def list_arrivals(request: web.Request) -> web.Response:
    """List the newest webhooks, and what became of each."""
    return await reply(request, arrivals.list_arrivals(request.app[RES].engine))


@routes.post("/api/v1/changes", is_for_readers=True, body=ChangesRequest, answer=ChangePage)
async def list_changes(request: web.Request) -> web.Response:
    """Show the states of the newest, the unfinished and the watched e-mails; it changes nothing."""
    wanted = await body(request, ChangesRequest)
    return await reply(
        request, changes.list_changes(request.app[RES].engine, wanted.filter, list(wanted.watched))
    )
