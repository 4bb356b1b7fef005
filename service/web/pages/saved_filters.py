"""Saved filters of the list of e-mails, and what is done to the e-mails that a person selects there."""

from aiohttp import web
from pydantic import Field, field_validator

from service.errors import Rejected
from service.operate.saved_filters import MOST_NAME, remove_filter, save_filter
from service.postgres.selection import MOST_IDS, Selection
from service.queries.saved_filters import list_filters
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.requests import MOST_DIGITS, ask, form, number
from service.web.handling.routes import Routes
from service.web.pages import filters
from service.web.pages.frame import redirect, show

routes = Routes()


class FilterForm(Selection):
    """The form that saves the filter of a list."""

    name: str = Field(max_length=4 * MOST_NAME)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def selection(self) -> Selection:
        return Selection.model_validate(self.model_dump(exclude={"name"}))


@routes.get("/filters")
async def list_saved_filters(request: web.Request) -> web.Response:
    page = await ask(request, list_filters(request.app[RES].engine))
    words = {each.id: filters.words_of(each.filter) for each in page.filters}
    return await show(
        request,
        "filters.html",
        page=page,
        words=words,
        links={number: filters.address(chosen) for number, chosen in words.items()},
    )


@routes.post("/filters")
async def save(request: web.Request) -> web.Response:
    given = await form(request, FilterForm)
    await ask(request, save_filter(request.app[RES], given.name, given.selection, request[IDENTITY].actor))
    return redirect("/filters", "filter_saved")


@routes.post("/filters/{id}/remove")
async def remove(request: web.Request) -> web.Response:
    await ask(request, remove_filter(request.app[RES], number(request, "id"), request[IDENTITY].actor))
    return redirect("/filters", "filter_removed")


@routes.get("/emails/-selected")
async def act_on_selected(request: web.Request) -> web.Response:
    """Redirect to the plan of what is done to the selected e-mails; no e-mail has such a number."""
    chosen = list(dict.fromkeys(request.query.getall("ids", [])))
    if not all(each.isascii() and each.isdigit() and len(each) <= MOST_DIGITS for each in chosen):
        raise Rejected(400, "bad_parameter", "ids: must be numbers")
    if len(chosen) > MOST_IDS:
        raise Rejected(400, "bad_parameter", f"ids: at most {MOST_IDS} e-mails; use a filter for more")
    if not chosen:
        return redirect("/emails", "none_selected")
    ids = ",".join(chosen)
    if request.query.get("action") == "hold":
        address = filters.address({"emails": ids}, "/holds/-new")
    else:
        action = "dismiss" if request.query.get("action") == "dismiss" else "retry"
        address = filters.address({"action": action, "ids": ids}, "/retries/plan")
    return web.Response(status=303, headers={"Location": address, "Cache-Control": "no-store"})
