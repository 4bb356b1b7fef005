"""The description of the API: for programs in OpenAPI, for people as a page."""

import asyncio
import json
from functools import cache
from importlib.metadata import version
from typing import Any

from aiohttp import web

from service.web.rendering import render
from service.web.routes import API


async def openapi_json(_: web.Request) -> web.Response:
    text = await asyncio.to_thread(_text)
    return web.Response(text=text, content_type="application/json", headers={"Cache-Control": "no-cache"})


async def page(request: web.Request) -> web.Response:
    return await render(request, "docs.html", **await asyncio.to_thread(_told))


@cache
def _text() -> str:
    return json.dumps(_document(), indent=1)


@cache
def _told() -> dict[str, Any]:
    from service.web import reading  # noqa: PLC0415 webhooks need not wait for it

    about = _document()
    return {
        "info": about["info"],
        "tags": reading.operations(about),
        "shapes": reading.shapes(about),
    }


@cache
def _document() -> dict[str, Any]:
    from service.web import openapi  # noqa: PLC0415 likewise

    return openapi.document(API, version("holdfast"))
