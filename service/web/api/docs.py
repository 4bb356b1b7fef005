"""The description of the API: for programs in OpenAPI, for people as a page."""

import asyncio
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from aiohttp import web

from service.telemetry.version import version
from service.web.api.routes import API
from service.web.handling.keys import RES
from service.web.handling.prefix import prefix_of, with_prefix
from service.web.handling.rendering import DRAWER, fill, page_headers

_made: dict[tuple[Callable[[str, str], bytes], str, str], bytes] = {}


async def openapi_json(request: web.Request) -> web.Response:
    body = await _once(request, _text)
    return web.Response(
        body=body, content_type="application/json", charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


async def page(request: web.Request) -> web.Response:
    """Answer with the page, which is the same for everybody and runs no scripts."""
    return web.Response(
        body=await _once(request, _page), content_type="text/html", charset="utf-8", headers=page_headers()
    )


async def _once(request: web.Request, make: Callable[[str, str], bytes]) -> bytes:
    """Have it made once in a process, in the thread of pages; `make` is cached for those who ask meanwhile."""
    prefix, url = prefix_of(request), request.app[RES].settings.public_url or "https://YOUR-HOST"
    known = make, prefix, url
    if known not in _made:
        _made[known] = await asyncio.get_running_loop().run_in_executor(DRAWER, make, prefix, url)
    return _made[known]


@cache
def _text(prefix: str = "", _: str = "") -> bytes:
    return json.dumps(_document(prefix), indent=1).encode()


@cache
def _page(prefix: str = "", public_url: str = "https://YOUR-HOST") -> bytes:
    html = fill("docs.html", {"path": "/docs", "identity": None, **_told(public_url)})
    return with_prefix(html, prefix).encode()


def _told(public_url: str) -> dict[str, Any]:
    from service.web.api import reading  # noqa: PLC0415 webhooks need not wait for it

    about = _document("")
    return {
        "info": about["info"],
        "tags": reading.operations(about, public_url.rstrip("/")),
        "shapes": reading.shapes(about),
    }


@cache
def _document(prefix: str) -> dict[str, Any]:
    from service.web.api import openapi  # noqa: PLC0415 likewise

    return openapi.document(API, version(), prefix)
