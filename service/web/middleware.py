"""Errors become answers: RFC 9457 problems with a stable `code`, never a traceback."""

from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service.errors import HoldfastError, Rejected, Transient

WEBHOOK_PATH = "/webhooks/zendesk"
RETRY_AFTER_SECONDS = 10

log = structlog.get_logger()


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with `application/problem+json`."""
    try:
        return await handler(request)
    except HoldfastError as exc:
        return _known(exc)
    except web.HTTPException as exc:
        if exc.status < HTTPStatus.BAD_REQUEST:
            raise
        answer = problem(exc.status, HTTPStatus(exc.status).name.lower(), exc.reason)
        if allow := exc.headers.get("Allow"):
            answer.headers["Allow"] = allow
        return answer
    except Exception:
        log.exception("request_broke", path=request.path)
        broke = "Something unexpected happened; it is in the log."
        if request.path == WEBHOOK_PATH:  # Zendesk repeats what got a 503, and drops what got a 500
            return _try_again("internal_error", broke)
        return problem(500, "internal_error", broke)


def problem(status: int, code: str, detail: str, **details: object) -> web.Response:
    """Make an answer of the kind that all errors get."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return web.json_response(
        {**body, "code": code, "detail": detail, **details},
        status=status,
        content_type="application/problem+json",
    )


def _known(exc: HoldfastError) -> web.Response:
    if isinstance(exc, Rejected):
        return problem(exc.status, exc.code, exc.message, **exc.details)
    if isinstance(exc, Transient):
        return _try_again(exc.code, exc.message)
    return problem(500, exc.code, exc.message)


def _try_again(code: str, detail: str) -> web.Response:
    answer = problem(503, code, detail)
    answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer
