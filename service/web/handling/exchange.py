"""What all handlers do: read parameters and bodies, give the work a budget of time, answer in JSON."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from service.errors import Rejected
from service.postgres.engine import within
from service.queries.views import View
from service.web.handling.keys import RES
from service.web.handling.prefix import prefix_of

MOST_BODY_BYTES = 64 * 1024
BODY_SECONDS = 5.0
# What is read by a session's cookie is of customers, and no browser or proxy is to keep it.
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

# In JSON 5.0 is the number 5, which `strict` does not know.
Whole = Annotated[int, BeforeValidator(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n)]

TURNS = web.AppKey("turns", asyncio.Semaphore)

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class Body(BaseModel):
    """What a body of JSON is read as: no text is taken for a number, and nothing is left unread.

    A filter that it holds is read as in a query string.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


BodyModel = TypeVar("BodyModel", bound=Body)


def parameters(request: web.Request, kind: type[Model]) -> Model:
    """Read the query string; raises Rejected (400) with the name of what is wrong."""
    twice = {name for name in request.query if len(request.query.getall(name)) > 1}
    if twice:
        raise Rejected(400, "bad_parameter", f"{min(twice)}: given more than once")
    try:
        return kind.model_validate(dict(request.query))
    except ValidationError as exc:
        raise Rejected(400, "bad_parameter", _complaint(exc)) from None


async def body(request: web.Request, kind: type[BodyModel]) -> BodyModel:
    """Read a body of JSON; raises Rejected (400 with the name of what is wrong, 408, 413, 415)."""
    content = await _read(request, "application/json")
    try:
        return kind.model_validate_json(content)
    except ValidationError as exc:
        raise Rejected(400, "bad_body", _complaint(exc)) from None


async def form(request: web.Request, kind: type[Model], most: int = MOST_BODY_BYTES) -> Model:
    """Read what a form sends, so many bytes at most; raises Rejected as `body` does."""
    content = await _read(request, "application/x-www-form-urlencoded", most)
    try:
        fields = parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=100)
        return kind.model_validate(dict(fields))
    except ValidationError as exc:
        raise Rejected(400, "bad_body", _complaint(exc)) from None
    except ValueError:
        raise Rejected(400, "bad_body", "This is no form of ours.") from None


def number(request: web.Request, name: str) -> int:
    """Read a number out of the path; raises Rejected (404)."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Rejected(404, "not_found", f"{name} is a number.")
    return int(text)


async def ask(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for the database no longer than a request may, and for a turn: half of the pool is for webhooks alone."""

    async def in_turn() -> T:
        try:
            async with request.app[TURNS]:
                return await work
        finally:
            work.close()  # which did not begin, if its turn did not come

    return await within(request.app[RES].settings.database_seconds, in_turn())


def answer(request: web.Request, view: View, status: int = 200) -> web.Response:
    # json escapes the lone surrogates that a payload may hold; they have no UTF-8, and pydantic's writer breaks.
    text = json.dumps(view.model_dump(context={"prefix": prefix_of(request)}), default=to_jsonable_python)
    return web.Response(text=text, status=status, content_type="application/json", headers=PRIVATE)


async def reply(request: web.Request, work: Coroutine[Any, Any, View]) -> web.Response:
    """Answer with the result of a query."""
    return answer(request, await ask(request, work))


async def _read(request: web.Request, content_type: str, most: int = MOST_BODY_BYTES) -> bytes:
    if request.content_type != content_type:
        raise Rejected(415, "unsupported_media_type", f"Send the body as {content_type}.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Rejected(415, "unsupported_encoding", "Send the body uncompressed.")
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                content += chunk
                if len(content) > most:
                    raise Rejected(413, "too_large", f"A body may have {most:,} bytes.")
    except TimeoutError:
        raise Rejected(408, "body_slow", f"The body did not arrive within {BODY_SECONDS:g} s.") from None
    except (OSError, web.RequestPayloadError) as exc:
        raise Rejected(400, "body_incomplete", "The body broke off.") from exc
    return bytes(content)


def _complaint(exc: ValidationError) -> str:
    """Name what is wrong, and not the value that is."""
    error = exc.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}" if place else error["msg"]
