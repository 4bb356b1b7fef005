"""Which addresses are of this site, and where on it a person came from."""

from urllib.parse import urlsplit

from aiohttp import web

from service.web.handling.keys import RES
from service.web.handling.prefix import prefix_of

# Pages without an address of their own, because a form posts what they are about; and the page of that form.
_FORMS = {"/erasures/plan": "/erasures"}


def is_ours(request: web.Request, address: str) -> bool:
    """Tell whether an address is of this site; ignore the scheme, since a proxy may terminate https."""
    host = _host_of(address)
    ours = request.headers.get("Host", "").lower(), _host_of(request.app[RES].settings.public_url or "")
    return host is not None and host in ours


def came_from(request: web.Request) -> str | None:
    """Return the path of the page of this site that led here, without the prefix; None if it is the wrong one itself.

    A form may post to the address of its own page, which is not wrong then.
    """
    address = request.headers.get("Referer", "")
    if not is_ours(request, address):
        return None
    prefix, parts = prefix_of(request), urlsplit(address)
    path = parts.path.removeprefix(prefix) if f"{parts.path}/".startswith(f"{prefix}/") else ""
    if not path.startswith("/") or path.startswith(("//", "/\\")):  # browsers take a backslash for a slash
        return None
    path = _FORMS.get(path, path)
    place = f"{path}?{parts.query}" if parts.query else path
    return None if place == request.path_qs and request.method != "POST" else place


def _host_of(address: str) -> str | None:
    try:
        return urlsplit(address).netloc.lower() or None
    except ValueError:
        return None
