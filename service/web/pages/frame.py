"""What every page of the dashboard has around it."""

from typing import Any

from aiohttp import web

from service.web.handling.keys import IDENTITY
from service.web.handling.rendering import render
from service.web.pages import notices


async def show(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:  # noqa: ANN401 templates take anything
    """Fill a template; it also sees `notice`, and `may_act`: whether this person's buttons would work."""
    known = {"notice": notices.read(request), "may_act": request[IDENTITY].role == "operator"}
    return await render(request, template, status=status, **known, **values)
