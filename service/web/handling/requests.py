"""The exchange of all handlers: read parameters and bodies, query within a budget of time, answer in JSON."""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import to_jsonable_python

from service.errors import Rejected
from service.postgres.engine import within
from service.postgres.selection import MOST_REASON
from service.queries.views import View
from service.web.handling.keys import RES
from service.web.handling.prefix import prefix_of

MOST_BODY_BYTES = 64 * 1024
MOST_DIGITS = 18  # of an id: Postgres has none with more
BODY_SECONDS = 5.0
# Answers hold customers' data: no browser or proxy may keep them.
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

# In JSON, 5.0 is the integer 5; pydantic's `strict` refuses it.
AS_INTEGER = BeforeValidator(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n)
Whole = Annotated[int, AS_INTEGER]
# The bounds stand before the validator: behind it they are missing in the API's description.
EmailId = Annotated[int, Field(ge=0, le=10**MOST_DIGITS - 1), AS_INTEGER]

TURNS = web.AppKey("turns", asyncio.Semaphore)

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class Body(BaseModel):
    """The model of a JSON body: strict types, no unknown fields.

    A nested filter is read leniently, as in a query string.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DismissRequest(Body):
    """Why something needs no attention any more."""

    reason: str = Field(
        min_length=1, max_length=MOST_REASON, description="For people; control characters are replaced"
    )


BodyModel = TypeVar("BodyModel", bound=Body)


def parameters(request: web.Request, kind: type[Model]) -> Model:
    """Read the query string; raises Rejected (400) with the name of the wrong parameter."""
    repeated = {name for name in request.query if len(request.query.getall(name)) > 1}
    if repeated:
        raise Rejected(400, "bad_parameter", f"{min(repeated)}: given more than once")
    return read_parameters(dict(request.query), kind)


def read_parameters(given: Mapping[str, str], kind: type[Model]) -> Model:
    """Read values of a query string; raises Rejected (400) with the name of the wrong one, and what is allowed."""
    try:
        return kind.model_validate(given)
    except ValidationError as exc:
        error, complaint = exc.errors(include_url=False, include_input=False)[0], _complaint(exc)
        if error["type"] == "extra_forbidden":
            complaint = (
                f"{error['loc'][0]}: there is no such parameter; there are {', '.join(kind.model_fields)}"
            )
        raise Rejected(400, "bad_parameter", complaint) from None


async def body(request: web.Request, kind: type[BodyModel], most_bytes: int = MOST_BODY_BYTES) -> BodyModel:
    """Read a JSON body; raises Rejected (400 with the name of the wrong field, 408, 413, 415)."""
    content = await _read(request, "application/json", most_bytes)
    try:
        return kind.model_validate_json(content)
    except ValidationError as exc:
        raise Rejected(400, "bad_body", _complaint(exc)) from None


async def form(request: web.Request, kind: type[Model], most_bytes: int = MOST_BODY_BYTES) -> Model:
    """Read a form of at most `most_bytes`; raises Rejected as `body` does."""
    content = await _read(request, "application/x-www-form-urlencoded", most_bytes)
    try:
        fields = parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=100)
        return kind.model_validate(dict(fields))
    except ValidationError as exc:
        raise Rejected(400, "bad_body", _complaint(exc)) from None
    except ValueError:
        raise Rejected(400, "bad_body", "The body is not a form of this service.") from None


def number(request: web.Request, name: str) -> int:
    """Read a number from the path; raises Rejected (404)."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise Rejected(404, "not_found", f"{name} must be a number.")
    return int(text)


async def ask(request: web.Request, query: Coroutine[Any, Any, T]) -> T:
    """Run a query within DATABASE_SECONDS, once a connection is free: half of the pool is for webhooks alone.

    Raises Transient.
    """

    async def in_turn() -> T:
        try:
            async with request.app[TURNS]:
                return await query
        finally:
            query.close()  # without a turn it never began

    return await within(request.app[RES].settings.database_seconds, in_turn())


def answer(request: web.Request, view: View, status: int = 200) -> web.Response:
    # A payload may hold lone surrogates: json escapes them, pydantic's serializer raises.
    text = json.dumps(view.model_dump(context={"prefix": prefix_of(request)}), default=to_jsonable_python)
    return web.Response(text=text, status=status, content_type="application/json", headers=PRIVATE)


async def reply(request: web.Request, query: Coroutine[Any, Any, View]) -> web.Response:
    """Answer with the result of a query."""
    return answer(request, await ask(request, query))


async def _read(request: web.Request, content_type: str, most_bytes: int = MOST_BODY_BYTES) -> bytes:
    if request.content_type != content_type:
        raise Rejected(415, "unsupported_media_type", f"Send the body as {content_type}.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Rejected(415, "unsupported_encoding", "Send the body uncompressed.")
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                content += chunk
                if len(content) > most_bytes:
                    raise Rejected(413, "too_large", f"A body may have {most_bytes:,} bytes.")
    except TimeoutError:
        raise Rejected(408, "body_slow", f"The body did not arrive within {BODY_SECONDS:g} s.") from None
    except (OSError, web.RequestPayloadError) as exc:
        raise Rejected(400, "body_incomplete", "The body broke off.") from exc
    return bytes(content)


def _complaint(exc: ValidationError) -> str:
    """Name the first wrong field and its error, without the value."""
    error = exc.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
