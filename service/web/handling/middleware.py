"""Errors become answers: RFC 9457 problems with a stable `code`, or a page that says it; never a traceback."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from structlog.contextvars import clear_contextvars

from service.errors import HoldfastError, Permanent, Rejected, Transient
from service.web.handling import prefix
from service.web.handling.keys import RES
from service.web.handling.rendering import render

SERVER = "holdfast"  # and no versions, by which one could look up what is wrong with them
_HSTS = "max-age=31536000"

WEBHOOK_PATH = "/webhooks/zendesk"
RETRY_AFTER_SECONDS = 10

log = structlog.get_logger()


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with `application/problem+json`, and a browser's with a page."""
    try:
        return await handler(request)
    except HoldfastError as exc:
        return await _answer(request, exc)
    except web.HTTPException as exc:
        if exc.status < HTTPStatus.BAD_REQUEST:
            raise
        detail = "There is nothing at this address." if exc.status == 404 else exc.reason
        error = Rejected(exc.status, HTTPStatus(exc.status).name.lower(), detail)
        return await _answer(
            request, error, {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else {}
        )
    except Exception:
        log.exception("request_broke", path=request.path)
        # Zendesk repeats what got a 503, and drops what got a 500.
        kind = Transient if is_webhook(request.path) else Permanent
        return await _answer(
            request, kind("internal_error", "Something unexpected happened; it is in the log.")
        )
    finally:  # the requests of a connection share a context
        clear_contextvars()


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add what every answer has; aiohttp's signal `on_response_prepare`."""
    prefix.add_to_headers(request, response)
    response.headers["Server"] = SERVER
    if is_encrypted(request):
        response.headers["Strict-Transport-Security"] = _HSTS


def is_encrypted(request: web.Request) -> bool:
    """Tell whether browsers reach us by https: PUBLIC_URL says so, or the proxy that met this one."""
    if (request.app[RES].settings.public_url or "").lower().startswith("https://"):
        return True
    proto = request.headers.get("X-Forwarded-Proto", "").partition(",")[0]
    return request.secure or proto.strip().lower() == "https"


def problem(status: int, code: str, detail: str, **details: object) -> web.Response:
    """Make an answer of the kind that all errors get."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return web.json_response(
        {**body, "code": code, "detail": detail, **details},
        status=status,
        content_type="application/problem+json",
    )


def is_webhook(path: str) -> bool:
    """Tell whether a path means the webhook: administrators type it by hand, with slashes doubled or at the end."""
    return [part for part in path.split("/") if part] == ["webhooks", "zendesk"]


def wants_page(request: web.Request) -> bool:
    """Tell whether a person looks at the answer; what programs ask is answered in JSON in any case."""
    is_program = request.path.startswith(("/api/", "/webhooks/")) or is_webhook(request.path)
    return not is_program and "text/html" in request.headers.get("Accept", "")


async def _answer(
    request: web.Request, error: HoldfastError, headers: Mapping[str, str] = MappingProxyType({})
) -> web.Response:
    status, details = 500, {}
    if isinstance(error, Rejected):
        status, details = error.status, error.details
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    elif isinstance(error, Transient):
        status, headers = 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}
    # Pages are drawn one after the other, and whoever guesses tokens shall not fill their queue.
    if wants_page(request) and status != HTTPStatus.TOO_MANY_REQUESTS:
        title = HTTPStatus(status).phrase
        shown = {"title": title, "code": error.code, "detail": error.message}
        answer = await render(request, "problem.html", status=status, **shown)
    else:
        answer = problem(status, error.code, error.message, **details)
    answer.headers.update(headers)
    return answer
