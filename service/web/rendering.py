"""Pages: a template and its values become HTML in which a browser runs nothing."""

import asyncio
import re
from functools import cache
from typing import TYPE_CHECKING

from aiohttp import web

from service.web import static
from service.web.keys import IDENTITY

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# No scripts, ours neither: an attachment is served from this host as well, and the sender chose its content.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; font-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


async def render(request: web.Request, template: str, *, status: int = 200, **values: object) -> web.Response:
    """Fill a template; it sees `path` and `identity` (None where nobody signed in) besides the values.

    A thread does it: what is loaded first reads files, and a long page must not hold up webhooks.
    """
    known = {"path": request.path, "identity": request.get(IDENTITY)}
    text = await asyncio.to_thread(_fill, template, {**known, **values})
    return web.Response(text=text, status=status, content_type="text/html", headers=PAGE_HEADERS)


def _fill(template: str, values: dict[str, object]) -> str:
    return environment().get_template(template).render(values)


@cache
def environment() -> "Environment":
    """Return jinja2's environment; templates write `{{ static("name.css") }}` for a file's address."""
    from jinja2 import (  # noqa: PLC0415 webhooks need not wait for what only a page needs
        Environment,
        PackageLoader,
        StrictUndefined,
    )

    environment = Environment(
        loader=PackageLoader("service.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = static.address
    environment.filters["words"] = _words
    return environment


def _words(text: str) -> "Markup":
    """Show what stands between `backticks` as code."""
    from markupsafe import Markup, escape  # noqa: PLC0415 likewise

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 it is escaped
