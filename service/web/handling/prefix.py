"""A path prefix, as of PUBLIC_URL=https://host/holdfast: taken off what comes in, put before what goes out.

In between all paths are as they are without one. So a proxy may pass the prefix or strip it, and a new page or
redirect needs no thought of it.
"""

import re
from collections.abc import Callable
from typing import Any

from aiohttp import web
from yarl import URL

from service.web.handling.keys import RES

# The attributes by which our templates name a path, and the webhook's in their text. What others wrote cannot look
# like one: its quotes and angle brackets are escaped.
_LINK = re.compile(r'\s(?:href|src|action|hx-get|data-live|data-emails)="(?=/(?!/))|<code>(?=/webhooks/)')
_HEADERS = ("Location", "HX-Push-Url")


class Runner(web.AppRunner):
    """aiohttp's runner of an application, whose requests have no prefix."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        if prefix := self.app[RES].settings.path_prefix:
            server.request_factory = _unprefixed(server.request_factory, prefix)
        return server


def prefix_of(request: web.Request) -> str:
    """Return what stands before every path in a browser, "" where there is no prefix."""
    return request.app[RES].settings.path_prefix


def with_prefix(html: str, prefix: str) -> str:
    """Put the prefix before each path of ours that a page names; once, for it would do it again."""
    return _LINK.sub(lambda found: found[0] + prefix, html) if prefix else html


def add_to_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put the prefix before a path of ours that the answer leads to."""
    for name in _HEADERS:
        place = response.headers.get(name, "")
        if place.startswith("/") and not place.startswith("//"):
            response.headers[name] = prefix_of(request) + place


def _unprefixed(make: Callable[..., Any], prefix: str) -> Callable[..., Any]:
    """Make requests as `make` does, of heads whose path lost its prefix; one without it is left as it is."""
    # Administrators type addresses by hand: as without a prefix, slashes may be doubled.
    pattern = re.compile("/+" + "/+".join(map(re.escape, prefix.split("/")[1:])) + "(?=/|$)")

    def make_unprefixed(message: Any, *others: Any) -> Any:  # noqa: ANN401 aiohttp's own
        if found := pattern.match(message.url.raw_path):
            path = message.url.raw_path[found.end() :] or "/"
            url = URL.build(path=path, query_string=message.url.raw_query_string, encoded=True)
            message = message._replace(url=url, path=str(url))
        return make(message, *others)

    return make_unprefixed
