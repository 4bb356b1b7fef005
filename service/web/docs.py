"""The description of the API: for programs in OpenAPI, for people as a page."""

import asyncio
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from aiohttp import web

from service.version import version
from service.web.rendering import DRAWER, fill, page_headers
from service.web.routes import API

_made: dict[Callable[[], bytes], bytes] = {}


async def openapi_json(_: web.Request) -> web.Response:
    body = await _once(_text)
    return web.Response(
        body=body, content_type="application/json", charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


async def page(_: web.Request) -> web.Response:
    """Answer with the page, which is the same for everybody and runs no scripts."""
    return web.Response(
        body=await _once(_page), content_type="text/html", charset="utf-8", headers=page_headers()
    )


async def _once(make: Callable[[], bytes]) -> bytes:
    """Have it made once in a process, in the thread of pages; `make` is cached for those who ask meanwhile."""
    if make not in _made:
        _made[make] = await asyncio.get_running_loop().run_in_executor(DRAWER, make)
    return _made[make]


@cache
def _text() -> bytes:
    return json.dumps(_document(), indent=1).encode()


@cache
def _page() -> bytes:
    return fill("docs.html", {"path": "/docs", "identity": None, **_told()}).encode()


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

    return openapi.document(API, version())
