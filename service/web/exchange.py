"""What all handlers of the API do: read parameters, give the work a budget of time, answer in JSON."""

import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from service.database import within
from service.errors import Rejected
from service.queries.views import View
from service.web.keys import RES

T = TypeVar("T")
Parameters = TypeVar("Parameters", bound=BaseModel)


def parameters(request: web.Request, kind: type[Parameters]) -> Parameters:
    """Read the query string; raises Rejected (400) with the name of what is wrong."""
    try:
        return kind.model_validate(dict(request.query))
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        raise Rejected(400, "bad_parameter", f"{error['loc'][0]}: {error['msg']}") from None


def number(request: web.Request, name: str) -> int:
    """Read a number out of the path; raises Rejected (404)."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Rejected(404, "not_found", f"{name} is a number.")
    return int(text)


async def ask(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for the database no longer than a request may."""
    return await within(request.app[RES].settings.database_seconds, work)


def answer(view: View) -> web.Response:
    # json escapes the lone surrogates that a payload may hold; they have no UTF-8, and pydantic's writer breaks.
    text = json.dumps(view.model_dump(), default=to_jsonable_python)
    return web.Response(text=text, content_type="application/json")
