"""The API of saved filters."""

from typing import Literal

from aiohttp import web
from pydantic import Field

from service.operate.saved_filters import MOST_NAME, remove_filter, save_filter
from service.postgres.selection import Selection
from service.queries.saved_filters import SavedFilterPage, list_filters
from service.queries.views import View
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import Body, answer, ask, body, number, reply
from service.web.handling.routes import Routes

routes = Routes("E-mails")


class SaveFilterRequest(Body):
    """A filter to save, and its name."""

    name: str = Field(min_length=1, max_length=MOST_NAME, description="No other filter may have it")
    filter: Selection


class FilterSaved(View):
    """The filter is saved."""

    filter_id: int


class FilterRemoved(View):
    """The filter is removed."""

    removed: Literal[True] = True
    filter_id: int


@routes.get("/api/v1/filters", answer=SavedFilterPage)
async def list_saved_filters(request: web.Request) -> web.Response:
    """List saved filters of e-mails, by name."""
    return await reply(request, list_filters(request.app[RES].engine))


@routes.post(
    "/api/v1/filters",
    body=SaveFilterRequest,
    answer=FilterSaved,
    status=201,
    errors={
        409: "Another filter has the name (`filter_exists`), it is blank (`name_missing`), the filter has no field"
        " (`filter_empty`), or there are too many (`too_many_filters`).",
    },
)
async def save_a_filter(request: web.Request) -> web.Response:
    """Save a filter of e-mails under a name, for everybody."""
    wanted, actor = await body(request, SaveFilterRequest), request[IDENTITY].actor
    saved = await ask(request, save_filter(request.app[RES], wanted.name, wanted.filter, actor))
    return answer(request, FilterSaved(filter_id=saved), status=201)


@routes.post("/api/v1/filters/{id}/remove", answer=FilterRemoved)
async def remove_a_filter(request: web.Request) -> web.Response:
    """Remove a saved filter."""
    filter_id = number(request, "id")
    await ask(request, remove_filter(request.app[RES], filter_id, request[IDENTITY].actor))
    return answer(request, FilterRemoved(filter_id=filter_id))
