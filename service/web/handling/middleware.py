"""Errors as answers: RFC 9457 problems with a stable `code`, or a page; never a traceback."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service.config.settings import Settings
from service.error_guide import advice_on
from service.errors import HoldfastError, Permanent, Rejected, Transient
from service.queries.messages import merged_into
from service.web.handling import prefix
from service.web.handling.keys import IDENTITY, RES
from service.web.handling.rendering import render
from service.web.handling.requests import MOST_DIGITS, ask
from service.web.handling.site import came_from

SERVER = "holdfast"  # without a version: it would tell known weaknesses
HSTS = "max-age=31536000"

RETRY_AFTER_SECONDS = 10
_EMAIL = re.compile(r"(/(?:api/v1/)?emails/)([0-9]+)(?=[/?]|$)", re.ASCII)

log = structlog.get_logger()


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with `application/problem+json`, or with a page in a browser."""
    try:
        return await handler(request)
    except HoldfastError as exc:
        return await _answer(request, exc)
    except web.HTTPException as exc:
        if exc.status < HTTPStatus.BAD_REQUEST:
            raise
        detail = "There is no page at this address." if exc.status == 404 else exc.reason
        error = Rejected(exc.status, HTTPStatus(exc.status).name.lower(), detail)
        return await _answer(
            request, error, {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else {}
        )
    except Exception:
        log.exception("request_failed", path=request.path)
        # Zendesk repeats a webhook after a 503, and drops it after a 500.
        kind = Transient if is_webhook(request.path) else Permanent
        return await _answer(request, kind("internal_error", "An unexpected error; see the log."))


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of every answer, in aiohttp's signal `on_response_prepare`."""
    prefix.add_to_headers(request, response)
    response.headers["Server"] = SERVER
    if is_encrypted(request):
        response.headers["Strict-Transport-Security"] = HSTS


def is_encrypted(request: web.Request) -> bool:
    """Tell whether the browser uses https, by PUBLIC_URL or the proxy's header."""
    return is_encrypted_by(request.app[RES].settings, request)


def is_encrypted_by(settings: Settings, request: web.BaseRequest) -> bool:
    """Tell the same of a request that no application has seen."""
    if (settings.public_url or "").lower().startswith("https://"):
        return True
    proto = request.headers.get("X-Forwarded-Proto", "").partition(",")[0]
    return request.secure or proto.strip().lower() == "https"


def problem(status: int, code: str, detail: str, **details: object) -> web.Response:
    """Make the JSON answer of an error."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return web.json_response(
        {**body, "code": code, "detail": detail, **details},
        status=status,
        content_type="application/problem+json",
    )


def add_help(request: web.Request, answer: web.Response, code: str) -> None:
    """Name the page that says what to do about a code: https://www.rfc-editor.org/rfc/rfc8288 (`rel="help"`)."""
    if advice_on(code):
        answer.headers["Link"] = f'<{prefix.prefix_of(request)}/docs/errors#{code}>; rel="help"'


def is_webhook(path: str) -> bool:
    """Tell whether a path is the webhook's, also with doubled or trailing slashes: administrators type it by hand."""
    return [part for part in path.split("/") if part] == ["webhooks", "zendesk"]


def wants_page(request: web.Request) -> bool:
    """Tell whether to answer with a page; paths for programs are always answered in JSON."""
    is_program = request.path.startswith(("/api/", "/webhooks/")) or is_webhook(request.path)
    return not is_program and "text/html" in request.headers.get("Accept", "")


async def _answer(
    request: web.Request, error: HoldfastError, headers: Mapping[str, str] = MappingProxyType({})
) -> web.Response:
    if isinstance(error, Rejected) and error.status == HTTPStatus.NOT_FOUND:
        location = await _moved_to(request)
        if location is not None:
            return web.Response(status=308, headers={"Location": location, "Cache-Control": "no-store"})
    status, details = 500, {}
    if isinstance(error, Rejected):
        status, details = error.status, error.details
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    elif isinstance(error, Transient):
        status, headers = 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}
    # One thread renders all pages: guesses of tokens (429) must not fill its queue.
    if wants_page(request) and status != HTTPStatus.TOO_MANY_REQUESTS:
        title = HTTPStatus(status).phrase
        # The advice on this code is about a file at Zendesk.
        code = "" if error.code == "not_found" else error.code
        shown = {"title": title, "code": code, "detail": error.message, "back": came_from(request)}
        answer = await render(request, "problem.html", status=status, **shown)
    else:
        answer = problem(status, error.code, error.message, **details)
        add_help(request, answer, error.code)
    answer.headers.update(headers)
    return answer


async def _moved_to(request: web.Request) -> str | None:
    """Return the address of the same about the e-mail that this one became part of; None if it was not merged."""
    found = _EMAIL.match(request.raw_path)
    # Strangers are not told which ids exist: a request without an identity was refused before its handler.
    if found is None or IDENTITY not in request or len(found[2]) > MOST_DIGITS:
        return None
    try:
        email_id = await ask(request, merged_into(request.app[RES].engine, int(found[2])))
    except Transient:  # the answer is about what was not found
        return None
    return None if email_id is None else f"{found[1]}{email_id}{request.raw_path[found.end() :]}"
