"""Render templates to HTML, in which a browser runs only our own scripts."""

import asyncio
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING

from aiohttp import web

from service.error_guide import action_on, advice_on
from service.web.handling import static, zones
from service.web.handling.keys import IDENTITY
from service.web.handling.prefix import prefix_of, with_prefix
from service.web.handling.remedies import remedy_on
from service.web.handling.template_filters import FILTERS

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
# A script needs the nonce of its answer. Scripts from this host are not trusted as such: attachments come from here
# too. A page without scripts allows none.
SCRIPTS = "; script-src 'nonce-{nonce}'; connect-src 'self'; frame-src 'self'"
PAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# One thread only: more would not render faster, and would take the interpreter's lock from the event loop. Pages that
# anybody may request would delay webhooks.
DRAWER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pages")


async def render(request: web.Request, template: str, *, status: int = 200, **values: object) -> web.Response:
    """Fill a template; it also sees `path`, `identity` (None without a sign-in) and `nonce`.

    It runs in a thread: the first call reads files, and a long page would delay webhooks.
    """
    nonce = secrets.token_urlsafe(16)
    known = {"path": request.path, "identity": request.get(IDENTITY), "nonce": nonce}
    draw = partial(_page, template, {**known, **values}, prefix_of(request), zones.named_by(request))
    text = await asyncio.get_running_loop().run_in_executor(DRAWER, draw)
    headers = page_headers(SCRIPTS.format(nonce=nonce) if nonce in text else "")
    # Texts from JSON may hold lone surrogates: those have no UTF-8.
    body = text.encode(errors="replace")
    return web.Response(body=body, status=status, content_type="text/html", charset="utf-8", headers=headers)


def page_headers(scripts: str = "") -> dict[str, str]:
    return {**PAGE_HEADERS, "Content-Security-Policy": _POLICY + scripts}


def fill(template: str, values: Mapping[str, object]) -> str:
    """Render a template, without the path prefix. Call it in a thread."""
    return environment().get_template(template).render(values)


def _page(template: str, values: Mapping[str, object], prefix: str, zone: str) -> str:
    def draw() -> str:
        zones.enter(zone)
        return with_prefix(fill(template, values), prefix)

    return copy_context().run(draw)  # the thread's next page may have another zone


@cache
def environment() -> "Environment":
    """Return jinja2's environment; in templates, `{{ static("name.css") }}` is the address of a file."""
    from jinja2 import (  # noqa: PLC0415 only pages need it: a web process starts faster
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
    environment.globals.update(static=static.address, now=lambda: datetime.now(UTC))
    environment.globals.update(zone=zones.current, zones=zones.zones)
    environment.globals.update(action_on=action_on, advice_on=advice_on, remedy_on=remedy_on)
    environment.filters.update(FILTERS, code=_code, in_zone=_in_zone)
    return environment


def _in_zone(html: str) -> "Markup":
    """Write the times of a part of ours, which was drawn for all readers, in the zone of this one."""
    from markupsafe import Markup  # noqa: PLC0415 likewise

    return Markup(zones.redrawn(html))  # noqa: S704 our template


def _code(text: str) -> "Markup":
    """Write text between `backticks` as code."""
    from markupsafe import Markup, escape  # noqa: PLC0415 likewise

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 it is escaped
