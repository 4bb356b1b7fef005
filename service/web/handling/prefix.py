"""The path prefix, as of PUBLIC_URL=https://host/holdfast: removed from requests, added to answers.

Handlers see paths without it. So a proxy may keep or strip the prefix, and new pages need no code for it.
"""

import re
from collections.abc import Callable
from typing import Any

from aiohttp import web
from yarl import URL

from service.web.handling.keys import RES

# Attributes with paths in our templates, and the webhook's path in their text. Strangers' text never matches: its
# quotes and angle brackets are escaped.
_LINK = re.compile(r'\s(?:href|src|action|hx-get|data-live|data-emails)="(?=/(?!/))|<code>(?=/webhooks/)')
_HEADERS = ("Location", "HX-Push-Url")


class Runner(web.AppRunner):
    """aiohttp's runner of an application that removes the prefix from requests."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        if prefix := self.app[RES].settings.path_prefix:
            server.request_factory = _unprefixed(server.request_factory, prefix)
        return server


def prefix_of(request: web.Request) -> str:
    """Return the prefix of every path in a browser, or ""."""
    return request.app[RES].settings.path_prefix


def with_prefix(html: str, prefix: str) -> str:
    """Add the prefix to each path in a page of ours. Call it once: a second call adds a second prefix."""
    return _LINK.sub(lambda found: found[0] + prefix, html) if prefix else html


def add_to_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the prefix to a redirect within the service."""
    for name in _HEADERS:
        path = response.headers.get(name, "")
        if path.startswith("/") and not path.startswith("//"):
            response.headers[name] = prefix_of(request) + path


def _unprefixed(make: Callable[..., Any], prefix: str) -> Callable[..., Any]:
    """Wrap a factory of requests: it removes the prefix from their paths, if there is one."""
    # Administrators type addresses by hand: slashes may be doubled.
    pattern = re.compile("/+" + "/+".join(map(re.escape, prefix.split("/")[1:])) + "(?=/|$)")

    def make_unprefixed(message: Any, *others: Any) -> Any:  # noqa: ANN401 aiohttp's own
        if found := pattern.match(message.url.raw_path):
            path = message.url.raw_path[found.end() :] or "/"
            url = URL.build(path=path, query_string=message.url.raw_query_string, encoded=True)
            message = message._replace(url=url, path=str(url))
        return make(message, *others)

    return make_unprefixed
