"""The description of the API, as OpenAPI and as a page; the page of error codes."""

import asyncio
import json
import secrets
from collections.abc import Callable
from functools import cache
from typing import Any

from aiohttp import web

from service.error_guide import GROUPS
from service.telemetry.version import version
from service.web import health, webhook
from service.web.api import (
    arrivals,
    custody,
    emails,
    erasures,
    evidence,
    failures,
    logins,
    messages,
    overview,
    quarantine,
    receipts,
    saved_filters,
    source,
)
from service.web.handling.keys import RES
from service.web.handling.prefix import prefix_of, with_prefix
from service.web.handling.rendering import DRAWER, SCRIPTS, fill, page_headers
from service.web.handling.routes import Routes

# All routes of the API, in the order of their description.
API = (
    *emails.routes,
    *messages.routes,
    *saved_filters.routes,
    *quarantine.routes,
    *failures.routes,
    *custody.routes,
    *overview.routes,
    *arrivals.routes,
    *source.routes,
    *erasures.routes,
    *receipts.routes,
    *evidence.routes,
    *logins.routes,
    *webhook.routes,
    *health.routes,
)
routes = Routes()

# The place of the nonce in the page, which is made once. Each answer has a nonce of its own.
_NONCE = secrets.token_urlsafe(16)


@routes.get("/openapi.json", is_open=True)
async def openapi_json(request: web.Request) -> web.Response:
    body = await _make(request, _text)
    return web.Response(
        body=body, content_type="application/json", charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


@routes.get("/docs", is_open=True)
async def page(request: web.Request) -> web.Response:
    """Answer with the page: the same for everybody; its script sends a reader's own requests."""
    nonce = secrets.token_urlsafe(16)
    body = (await _make(request, _page)).replace(_NONCE.encode(), nonce.encode())
    headers = page_headers(SCRIPTS.format(nonce=nonce))
    return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)


@routes.get("/docs/errors", is_open=True)
async def errors_page(request: web.Request) -> web.Response:
    """Answer with the page of all error codes."""
    body = await _make(request, _errors)
    return web.Response(body=body, content_type="text/html", charset="utf-8", headers=page_headers())


async def _make(request: web.Request, make: Callable[[str, str], bytes]) -> bytes:
    """Call a cached function in the thread of pages: the first call takes longer than a webhook may wait."""
    prefix, url = prefix_of(request), request.app[RES].settings.public_url or "https://YOUR-HOST"
    return await asyncio.get_running_loop().run_in_executor(DRAWER, make, prefix, url)


@cache
def _text(prefix: str = "", _: str = "") -> bytes:
    return json.dumps(_document(prefix), indent=1).encode()


@cache
def _page(prefix: str = "", public_url: str = "https://YOUR-HOST") -> bytes:
    from service.web.api import docs_page  # noqa: PLC0415 webhooks do not need it: a web process starts faster

    about = _document(prefix)
    values = {
        "path": "/docs",
        "identity": None,
        "nonce": _NONCE,
        "info": about["info"],
        "tags": docs_page.operations(about, public_url.rstrip("/")),
        "problems": docs_page.problems(about),
        "shapes": docs_page.shapes(about),
    }
    return with_prefix(fill("docs.html", values), prefix).encode()


@cache
def _errors(prefix: str = "", _: str = "") -> bytes:
    html = fill("errors.html", {"path": "/docs/errors", "identity": None, "groups": GROUPS})
    return with_prefix(html, prefix).encode()


def _document(prefix: str) -> dict[str, Any]:
    from service.web.api import openapi  # noqa: PLC0415 likewise

    return openapi.document(API, version(), prefix)
