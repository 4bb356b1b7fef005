"""Who may use the API: whoever shows its token; nobody, where none is set."""

import hmac

from aiohttp import web
from aiohttp.typedefs import Handler

from service.errors import Rejected
from service.web.keys import RES


@web.middleware
async def bearer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nothing under /api through without the token."""
    if request.path == "/api" or request.path.startswith("/api/"):
        _check(request)
    return await handler(request)


def _check(request: web.Request) -> None:
    token = request.app[RES].settings.api_token
    if token is None:
        raise Rejected(403, "api_closed", "The API is closed: set API_TOKEN to open it.")
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    expected = token.get_secret_value().encode()
    shown_bytes = shown.strip().encode(errors="replace")
    if scheme.lower() != "bearer" or not hmac.compare_digest(shown_bytes, expected):
        raise Rejected(401, "unauthorized", "Send the header `Authorization: Bearer $API_TOKEN`.")
