"""The description of the API: for programs in OpenAPI, for people as a page."""

import asyncio
import json
from functools import cache
from importlib.metadata import version

from aiohttp import web

from service.web import openapi, reading
from service.web.rendering import render
from service.web.routes import API


async def openapi_json(_: web.Request) -> web.Response:
    text = await asyncio.to_thread(_text)
    return web.Response(text=text, content_type="application/json", headers={"Cache-Control": "no-cache"})


async def page(request: web.Request) -> web.Response:
    about = await asyncio.to_thread(_document)
    return await render(
        request,
        "docs.html",
        info=about["info"],
        tags=reading.operations(about),
        shapes=reading.shapes(about),
    )


@cache
def _document() -> openapi.Json:
    return openapi.document(API, version("holdfast"))


@cache
def _text() -> str:
    return json.dumps(_document(), indent=1)
