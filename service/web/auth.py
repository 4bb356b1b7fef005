"""Who may use the API: whoever shows its token; nobody, where none is set."""

import hmac

from aiohttp import web
from aiohttp.typedefs import Handler

from service.errors import Rejected
from service.web.keys import RES
from service.web.middleware import problem


@web.middleware
async def bearer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nothing under /api through without the token."""
    if (request.path == "/api" or request.path.startswith("/api/")) and not _shows_token(request):
        answer = problem(401, "unauthorized", "Send the header `Authorization: Bearer $API_TOKEN`.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer
    return await handler(request)


def _shows_token(request: web.Request) -> bool:
    token = request.app[RES].settings.api_token
    if not token:
        raise Rejected(403, "api_closed", "The API is closed: set API_TOKEN to open it.")
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    # aiohttp decodes headers so that bytes which are not UTF-8 come back as they were.
    shown_bytes = shown.strip().encode(errors="surrogateescape")
    return scheme.lower() == "bearer" and hmac.compare_digest(shown_bytes, token.get_secret_value().encode())
